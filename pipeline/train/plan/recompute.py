"""Gradients of a model whose blocks are recomputed, from parts that can be traced.

`mx.checkpoint` is an operation that cannot be exported, so a graph that contains it cannot be
traced. This builds the same graph without it: a forward pass; then, from the last block to the
first, a second forward pass that waits for the result of the first one, and its gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.device import mx, nn, tree_unflatten
from pipeline.errors import ModelError
from pipeline.model.body_and_head import owner
from pipeline.model.network.intercept import Call, intercepted, reads_noted
from pipeline.model.network.tree import arrays_replaced, blocks, trainable_arrays
from pipeline.objective.chunked_head import EvalOrder

Found = tuple[mx.array, mx.array, EvalOrder]
"""What `TrainStep.losses` returns; the first sum is differentiated."""
Losses = Callable[[], Found]
Arrays = dict[str, mx.array]


@dataclass
class Visit:
    """One call of a block, and its output."""

    call: Call
    output: mx.array

    @property
    def hidden(self) -> mx.array:
        """What went into the block."""
        return self.call.args[0]


def checkpointed_gradients(model: nn.Module, losses: Losses) -> tuple[Found, Any]:
    """Return what `nn.value_and_grad` would for a model whose blocks are checkpointed.

    Args:
        model: its trainable arrays are differentiated.
        losses: runs the model.

    Returns:
        The losses, and the tree of the gradients.

    Raises:
        ModelError: when a block is not fed the output of the one before.
    """
    own = [trainable_arrays(block) for block in blocks(model)]
    inside = {id(value) for arrays in own for value in arrays.values()}
    every = trainable_arrays(model)
    outside = {name: value for name, value in every.items() if id(value) not in inside}
    visits, front = visit_blocks(model, losses, outside)
    found, cotangent, gradients = head_gradients(model, losses, visits, outside)
    by_weight = dict(zip(map(id, outside.values()), gradients, strict=True))
    trained = [index for index, arrays in enumerate(own) if arrays]
    first = 0 if front else min(trained, default=len(own))
    for visit, arrays in reversed(list(zip(visits, own, strict=True))[first:]):
        cotangent, gradients = block_gradients(visit, arrays, cotangent)
        by_weight |= dict(zip(map(id, arrays.values()), gradients, strict=True))
    if front:
        gradients = front_gradients(model, losses, visits, front, cotangent)
        for value, gradient in zip(front.values(), gradients, strict=True):
            by_weight[id(value)] = mx.add(by_weight[id(value)], gradient)
    return found, tree_unflatten([(name, by_weight[id(value)]) for name, value in every.items()])


def visit_blocks(model: nn.Module, losses: Losses, outside: Arrays) -> tuple[list[Visit], Arrays]:
    """Run the model, and note the calls of its blocks.

    Returns:
        The calls, and those weights outside of blocks that the first block's input depends on.
    """
    visits: list[Visit] = []
    indices = {id(block): index for index, block in enumerate(blocks(model))}
    owners = {owner(name) for name in outside}
    modules = {name: module for name, module in model.named_modules() if name in owners}
    front: Arrays = {}

    def note(call: Call) -> mx.array:
        index = indices[id(call.module)]
        if index != len(visits) or (visits and call.args[0] is not visits[-1].output):
            raise ModelError(
                f"Block {index} of the model is not fed what block {index - 1} gave, so the memory "
                "of a step with train.grad_checkpoint=true cannot be planned."
            )
        if not visits:
            front.update({name: value for name, value in outside.items() if owner(name) in read})
        visits.append(Visit(call, call.run()))
        return visits[-1].output

    with reads_noted(modules) as read, intercepted(blocks(model), note):
        losses()
    return visits, front


def head_gradients(
    model: nn.Module, losses: Losses, visits: list[Visit], outside: Arrays
) -> tuple[Found, mx.array, list[mx.array]]:
    """Differentiate what comes after the blocks.

    Returns:
        The losses, and the gradients of the last block's output and of the weights outside blocks.
    """

    def tail(arguments: list[mx.array]) -> Found:
        output, *weights = arguments
        outputs = iter([*(visit.output for visit in visits[:-1]), output])
        answered = intercepted(blocks(model), lambda call: next(outputs))
        with arrays_replaced(model, outside, weights), answered:
            return losses()

    found, gradients = mx.value_and_grad(tail)([visits[-1].output, *outside.values()])
    return found, gradients[0], gradients[1:]


def block_gradients(
    visit: Visit, own: Arrays, cotangent: mx.array
) -> tuple[mx.array, list[mx.array]]:
    """Run a block again, once its first run is done, and differentiate it.

    Returns:
        The gradients of its input and of its trained weights.
    """
    block = visit.call.module

    def run(hidden: mx.array, *weights: mx.array) -> mx.array:
        with arrays_replaced(block, own, weights):
            return visit.call.run(hidden)

    primals = mx.depends([visit.hidden, *own.values()], [visit.output])
    _, gradients = mx.vjp(run, primals, [cotangent])
    return gradients[0], list(gradients[1:])


def front_gradients(
    model: nn.Module, losses: Losses, visits: list[Visit], front: Arrays, cotangent: mx.array
) -> list[mx.array]:
    """Differentiate what comes before the blocks, by the weights outside of blocks."""

    def run(*weights: mx.array) -> mx.array:
        hidden: list[mx.array] = []
        outputs = iter(visits)

        def answer(call: Call) -> mx.array:
            hidden.append(call.args[0])
            return next(outputs).output

        with arrays_replaced(model, front, weights), intercepted(blocks(model), answer):
            losses()  # what comes after the first block is dropped, so never computed
        return hidden[0]

    _, gradients = mx.vjp(run, list(front.values()), [cotangent])
    return list(gradients)
