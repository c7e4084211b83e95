"""In which order MLX evaluates a graph (`eval_impl` of its `transforms.cpp`)."""

from collections.abc import Mapping, Sequence

from pipeline.train.plan.trace import Graph, Node

MAX_WIDTH = 20
"""Operations that may wait before MLX goes deeper (`MLX_BFS_MAX_WIDTH`)."""


def group_orders(graph: Graph, groups: Sequence[Sequence[str]]) -> list[list[Node]]:
    """Return the operations that evaluate each group of results, in MLX's order.

    Args:
        graph: what `trace` recorded.
        groups: names of the results that are evaluated together, one group after the other.

    Returns:
        A list for each group, without the operations of earlier groups.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs}
    orders = []
    for names in groups:
        orders.append(evaluation_order(names, makers))
        for node in orders[-1]:
            for name in node.outputs:
                del makers[name]
    return orders


def evaluation_order(names: Sequence[str], makers: Mapping[str, Node]) -> list[Node]:
    """Return the operations in the order in which `mx.eval` carries them out.

    MLX walks from the results towards the inputs, breadth first, with at most `MAX_WIDTH`
    operations waiting. It visits an operation after all operations that need its results, and
    evaluates in the reverse order of these visits.

    Args:
        names: the results.
        makers: the operation that makes each array; arrays that exist already have none.
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
        for index_of_input in range(first, len(node.inputs)):
            maker = makers.get(node.inputs[index_of_input])
            if maker is None:
                continue
            if len(tape) - index >= MAX_WIDTH:
                waiting.append((node, index_of_input))
                break
            uses[id(maker)] -= 1
            if not uses[id(maker)]:
                tape.append(maker)
    return tape[:0:-1]


def count_uses(end: Node, makers: Mapping[str, Node]) -> dict[int, int]:
    """Count the uses of the results of each operation that the end depends on."""
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
