"""In which order MLX evaluates a graph (`eval_impl` of its `transforms.cpp`)."""

from pipeline.device import mx, nn
from pipeline.train.plan.evaluation_order import group_orders
from pipeline.train.plan.trace import trace


def test_every_operation_comes_after_those_it_needs():
    def run(x):
        return [nn.gelu(x) @ nn.silu(x).T, mx.softmax(x), x.sum()]

    graph = trace(run, [mx.zeros((8, 8))])
    known = {*graph.inputs, *graph.constants}
    [order] = group_orders(graph, [graph.outputs])
    assert sorted(map(id, order)) == sorted(map(id, graph.nodes))
    for node in order:
        assert known.issuperset(node.inputs)
        known.update(node.outputs)


def test_the_last_result_is_evaluated_first():
    graph = trace(lambda x: [mx.exp(x), mx.sin(x)], [mx.zeros(2)])
    [order] = group_orders(graph, [graph.outputs])
    assert [node.primitive for node in order] == ["Sin", "Exp"]
