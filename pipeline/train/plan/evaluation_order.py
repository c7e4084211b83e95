"""In which order MLX evaluates a graph (`eval_impl` of its `transforms.cpp`)."""

from collections.abc import Mapping, Sequence

from pipeline.train.plan.trace import Graph, Node

MAX_WIDTH = 20
"""Operations that wait side by side before MLX goes deeper (`MLX_BFS_MAX_WIDTH`)."""


def stage_orders(graph: Graph, stages: Sequence[Sequence[str]]) -> list[list[Node]]:
    """Give the operations that evaluate each stage, without those of earlier ones, in their order.

    Args:
        graph: what `trace` recorded.
        stages: names of the results that are evaluated together, one stage after the other.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs}
    orders = []
    for names in stages:
        orders.append(evaluation_order(names, makers))
        for node in orders[-1]:
            for name in node.outputs:
                del makers[name]
    return orders


def evaluation_order(names: Sequence[str], makers: Mapping[str, Node]) -> list[Node]:
    """Give the operations in the order in which `mx.eval` of results carries them out.

    MLX walks from the results towards the inputs, breadth first and at most so wide. It takes up
    an operation when all that need its results have been, and evaluates from the end.

    Args:
        names: the results.
        makers: the operation that makes each array; those that are there already have none.
    """
    end = Node("Synchronizer", (), tuple(names), ())
    uses = count_uses(end, makers)
    tape: list[Node] = [end]
    waiting: list[tuple[Node, int]] = []
    index = 0
    while index < len(tape) or waiting:
        if index < len(tape):
            node, first = tape[index], 0
            index += 1
        else:
            node, first = waiting.pop()
        for place in range(first, len(node.inputs)):
            maker = makers.get(node.inputs[place])
            if maker is None:
                continue
            if len(tape) - index >= MAX_WIDTH:
                waiting.append((node, place))
                break
            uses[id(maker)] -= 1
            if not uses[id(maker)]:
                tape.append(maker)
    return tape[:0:-1]


def count_uses(end: Node, makers: Mapping[str, Node]) -> dict[int, int]:
    """Count how often the results of each operation that the end needs are used."""
    uses: dict[int, int] = {}
    todo = [end]
    while todo:
        for name in todo.pop().inputs:
            maker = makers.get(name)
            if maker is None:
                continue
            if id(maker) not in uses:
                uses[id(maker)] = 0
                todo.append(maker)
            uses[id(maker)] += 1
    return uses
