"""Sums over long axes: right to a millionth of float64, whatever the length and the layout."""

import ast

import numpy as np
import pytest

from pipeline.device import mx
from pipeline.sums import BLOCK, mean_along, standard_deviation, sum_all, sum_along
from tools.import_graph import ROOT

LENGTHS = [1, BLOCK, BLOCK + 1, 1000, 49_152, 50_257, 256_000, 1 << 20]
KINDS = {
    "equal": lambda generator, shape: np.broadcast_to(generator.uniform(1, 2, (8, 1)), shape),
    "even": lambda generator, shape: generator.uniform(0, 1, shape),
    "exponentials": lambda generator, shape: np.exp(3 * generator.normal(size=shape)),
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_those_of_float64(kind, length):
    values = KINDS[kind](np.random.default_rng(length), (8, length)).astype(np.float32)
    wanted = values.sum(axis=1, dtype=np.float64)
    given = mx.array(values)
    for found in (sum_along(given, 1), sum_along(given, -1), sum_along(given.T, 0)):
        np.testing.assert_allclose(np.array(found), wanted, rtol=1e-6)
    np.testing.assert_allclose(np.array(mean_along(given, 1)), wanted / length, rtol=1e-6)
    for layout in (given, given.T, given[None], mx.repeat(given, 2, 0)[::2]):
        assert float(sum_all(layout)) == pytest.approx(wanted.sum(), rel=1e-6)


def test_ones_are_counted_where_mlx_stops():
    """Added up one after the other, 28 million ones are 16,777,216 on a CPU."""
    ones = mx.ones((49_152, 576))
    assert float(sum_all(ones)) == pytest.approx(ones.size, rel=1e-6)
    assert float(sum_all(ones.T)) == pytest.approx(ones.size, rel=1e-6)
    assert float(sum_all(mx.array(7.0))) == 7.0


def test_other_axes_stay_as_they_are():
    values = np.random.default_rng(0).normal(size=(3, 70, 5, 40)).astype(np.float32)
    for axis in (0, 1, 2, 3, -1, -2, -3, -4):
        found = np.array(sum_along(mx.array(values), axis))
        np.testing.assert_allclose(found, values.sum(axis, dtype=np.float64), atol=1e-5)


def test_the_deviation_is_that_of_float64():
    values = np.random.default_rng(0).normal(300, 7, (4, 87, 4_915)).astype(np.float32)
    wanted = values.std(dtype=np.float64)
    assert float(standard_deviation(mx.array(values))) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("length", [5, 1000, 2 * BLOCK])
def test_a_sum_has_a_gradient(length):
    weights = mx.random.normal((3, length), key=mx.random.key(0))
    slope = mx.grad(lambda values: sum_all(weights * values))(mx.ones((3, length)))
    assert mx.array_equal(slope, weights)


def test_a_sum_takes_no_copy_of_what_it_adds():
    values = mx.ones((64, 50_257))
    mx.eval(values)
    for reduce in (sum_all, lambda each: sum_along(each, -1), lambda each: sum_along(each.T, 0)):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(reduce(values))
        assert mx.get_peak_memory() - before < 0.2 * values.nbytes


# Nothing else adds up many numbers

LONG = ("objective", "optim", "train", "evaluate", "formats")
REDUCTIONS = {"sum", "mean", "std", "var", "logsumexp", "softmax", "norm", "cross_entropy"}
KNOWN = {
    "self.distrust_sums[batch.documents].sum()": "NumPy's, in float64",
    "nn.silu(layer(inputs)).sum()": "of 64 numbers, to load kernels",
}
"""Reductions in modules that use MLX, other than those of `pipeline.sums`."""


def reductions(text):
    """List the calls of a module that add up numbers by themselves, where it uses MLX."""
    tree = ast.parse(text)
    froms = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    if "mx" not in {each.name for node in froms for each in node.names}:
        return []
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [
        ast.unparse(call)
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in REDUCTIONS
        and not ast.unparse(call.func).startswith("np.")
    ]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("mx.mean(x, axis=-1)", ["mx.mean(x, axis=-1)"]),
        ("y = float(x.sum())", ["x.sum()"]),
        ("nn.losses.cross_entropy(x, y)", ["nn.losses.cross_entropy(x, y)"]),
        ("np.mean(x)", []),
        ("sum_all(x)", []),
        ("x.max()", []),
    ],
)
def test_a_sum_of_its_own_is_noticed(line, found):
    assert reductions(f"from pipeline.device import mx\n{line}\n") == found
    assert reductions(f"import numpy as np\n{line}\n") == []


def test_long_sums_are_taken_in_one_way():
    files = [file for part in LONG for file in (ROOT / "pipeline" / part).rglob("*.py")]
    found = {call for file in files for call in reductions(file.read_text())}
    assert found == KNOWN.keys()
