"""What we rely on in `mx.export_function`, which is experimental; a new MLX fails here first."""

import pytest

from pipeline.device import mlx_memory, mx
from pipeline.train.plan.trace import ArrayShape, trace


def test_a_graph_has_inputs_outputs_constants_and_operations_in_order():
    graph = trace(lambda x, y: [mx.exp(x) + mx.array([1.0, 2.0]), y], [mx.zeros(2), mx.zeros(3)])
    assert [node.primitive for node in graph.nodes] == ["Exp", "Add"]
    exp, add = graph.nodes
    assert exp.inputs == graph.inputs[:1]
    assert set(add.inputs) == {*exp.outputs, *graph.constants}
    assert graph.outputs == (*add.outputs, graph.inputs[1])
    assert graph.arrays[add.outputs[0]] == ArrayShape((2,), 4)
    assert graph.arrays[graph.inputs[1]] == ArrayShape((3,), 4)


@pytest.mark.parametrize(
    ("function", "primitive", "arguments"),
    [
        (lambda x: x.T, "Transpose", ([1, 0],)),
        (lambda x: x[None], "ExpandDims", ([0],)),
        (lambda x: x[None][0:1].squeeze(0), "Squeeze", ([0],)),
        (lambda x: x[:, 1:4:2], "Slice", ((0, 1), (4, 4), (1, 2))),
        (lambda x: mx.broadcast_to(x, (2, 4, 6)), "Broadcast", ((2, 4, 6),)),
        (lambda x: mx.as_strided(x, (2, 2), (1, 2)), "AsStrided", ((2, 2), (1, 2), 0)),
    ],
)
def test_views_say_what_they_do(function, primitive, arguments):
    graph = trace(lambda x: [function(x)], [mx.zeros((4, 6))])
    assert (graph.nodes[-1].primitive, graph.nodes[-1].arguments) == (primitive, arguments)


def test_nothing_is_computed():
    before = mlx_memory().active_bytes
    large = mx.random.normal((1 << 20, 1 << 20))  # 4 TiB
    trace(lambda x: [mx.softmax(x @ x.T).sum()], [large])
    assert mlx_memory().active_bytes - before < 1000


def test_compiled_functions_are_traced_operation_by_operation():
    graph = trace(lambda x: [mx.compile(lambda x: mx.exp(x) * x)(x)], [mx.zeros(2)])
    assert [node.primitive for node in graph.nodes] == ["Exp", "Multiply"]


def test_a_gradient_is_part_of_the_graph():
    graph = trace(lambda x: [mx.grad(lambda x: mx.exp(x).sum())(x)], [mx.zeros(2)])
    assert "Multiply" in [node.primitive for node in graph.nodes]


def test_a_checkpoint_cannot_be_traced():
    def recomputed(x):
        return [mx.grad(lambda x: mx.checkpoint(mx.exp)(x).sum())(x)]

    with pytest.raises(ValueError, match="CustomTransforms"):
        trace(lambda x: [mx.checkpoint(mx.exp)(x), *recomputed(x)], [mx.zeros(2)])
