"""Rounding at random: to a neighbour, right in the mean, and the same after any resume."""

import numpy as np
import pytest

from pipeline.device import mx
from pipeline.optim.rounding import RandomRounding

TYPES = pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=["bfloat16", "float16"])
ROUNDING = RandomRounding(seed=3)


def rounded(values, dtype, name="w", step=1, rounding=ROUNDING):
    given = mx.array(np.asarray(values, np.float32))
    found = rounding(given, dtype, name, mx.array(step, mx.uint64))
    assert found.dtype == dtype
    return np.array(found.astype(mx.float32))


@TYPES
@pytest.mark.parametrize("size", [1.0, -1.0, 1e-3, -300.0, 3e-6])
def test_a_number_becomes_one_of_its_neighbours_and_the_mean_is_right(dtype, size):
    """The mean of n draws deviates by half the distance / sqrt(n) at most; 5 such are allowed."""
    for share in (0.003, 0.25, 0.5, 0.9):
        low = float(mx.array(size, dtype).astype(mx.float32))
        bits = {mx.bfloat16: 7, mx.float16: 10}[dtype]
        distance = max(2.0 ** (np.floor(np.log2(abs(low))) - bits), 2.0**-24 * (bits == 10))
        value = np.float32(low + np.sign(size) * share * distance)
        found = rounded(np.full(40_000, value), dtype)
        assert len(set(found.tolist())) == 2
        assert np.abs(found - value).max() < distance
        error = found.mean(dtype=np.float64) - float(value)
        assert abs(error) < 5 * distance / 2 / np.sqrt(found.size)


@TYPES
def test_what_the_type_can_hold_stays_as_it_is(dtype):
    values = mx.random.normal((1000,), key=mx.random.key(0)).astype(dtype).astype(mx.float32)
    given = np.concatenate([np.array(values), [0.0, -0.0, 1.0, -2.0]])
    for step in range(3):
        assert np.array_equal(rounded(given, dtype, step=step), given)


def test_what_is_drawn_depends_on_seed_tensor_and_step_alone():
    values = np.random.default_rng(0).normal(size=(40, 50))
    first = rounded(values, mx.bfloat16)
    mx.random.seed(11)
    assert np.array_equal(rounded(values, mx.bfloat16), first)
    others = [
        rounded(values, mx.bfloat16, step=2),
        rounded(values, mx.bfloat16, name="v"),
        rounded(values, mx.bfloat16, rounding=RandomRounding(4)),
    ]
    for other in others:  # two independent draws differ where one of them goes up
        assert 0.2 < (other != first).mean() < 0.5
