"""Schedules and AdamW: values by hand, and against torch's own."""

import itertools

import numpy as np
import pytest

from pipeline.device import mx
from pipeline.optim import OptimSettings, make_optimizer, warmup_cosine


def rates(num_steps, beyond=0, **changes):
    settings = {"learning_rate": 1.0, "weight_decay": 0.0, "warmup_fraction": 0.2}
    schedule = warmup_cosine(OptimSettings(**{**settings, **changes}), num_steps)
    return [float(schedule(mx.array(step))) for step in range(num_steps + beyond)]


def test_warmup_rises_in_a_line_to_the_peak():
    assert rates(20)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_the_rate_falls_to_the_floor_and_stays():
    series = rates(20, beyond=5, final_fraction=0.1)
    assert all(a > b for a, b in itertools.pairwise(series[3:20]))
    assert series[20:] == pytest.approx([0.1] * 5)


def test_half_way_down_is_half_the_peak():
    series = rates(29, warmup_fraction=0.0)  # the 16th of 29 updates is half of 30 - 1
    assert series[0] == 1.0
    middle = rates(30, warmup_fraction=1 / 30)[15]
    assert middle == pytest.approx(0.5)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_any_number_of_steps_works(num_steps):
    series = rates(num_steps)
    assert series[0] > 0
    assert min(series) > 0
    assert max(series) == pytest.approx(1.0)


def test_a_run_that_is_all_warmup_ends_at_the_peak():
    assert rates(4, warmup_fraction=1.0) == pytest.approx([0.25, 0.5, 0.75, 1.0])


def updates(weight_decay, gradients, first):
    settings = OptimSettings(0.01, weight_decay, warmup_fraction=0.0, final_fraction=1.0)
    optimizer = make_optimizer(settings, len(gradients))
    parameters = {"w": mx.array(first)}
    optimizer.init(parameters)
    for gradient in gradients:
        parameters = optimizer.apply_gradients({"w": mx.array(gradient)}, parameters)
    return np.array(parameters["w"])


def test_the_first_update_is_bias_corrected():
    moved = updates(0.0, [[0.5, -2.0]], [1.0, 1.0])
    np.testing.assert_allclose(moved, [0.99, 1.01], rtol=1e-5)


def test_adamw_is_torchs(readers):
    torch = readers("torch")
    generator = np.random.default_rng(0)
    first = generator.normal(size=12).astype(np.float32)
    gradients = generator.normal(size=(20, 12)).astype(np.float32)
    parameter = torch.nn.Parameter(torch.tensor(first))
    optimizer = torch.optim.AdamW([parameter], lr=0.01, weight_decay=0.1, eps=1e-8)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    ours, theirs = updates(0.1, list(gradients), first), parameter.detach().numpy()
    step = np.linalg.norm(theirs - first)
    # MLX forms 1 - 0.999^t in float32: good to 1e-5 in the first updates, and no better.
    assert np.linalg.norm(ours - theirs) < 1e-5 * step
