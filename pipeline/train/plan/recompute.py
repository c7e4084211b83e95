"""Gradients of a model whose blocks are recomputed, put together by hand.

`mx.checkpoint` is an operation that cannot be exported, so a graph that holds it cannot be traced.
This builds the same graph of parts that can: a forward pass; then, from the last block to the
first, a second forward pass that waits for the result of the first one, and its gradient.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.device import mx, nn, tree_unflatten
from pipeline.errors import ModelError
from pipeline.model.tree import blocks, trainable_arrays
from pipeline.objective.chunked_head import EvalOrder

Losses = Callable[[], tuple[mx.array, mx.array, EvalOrder]]
Call = Callable[[int, Callable[[mx.array], mx.array], mx.array], mx.array]


class Reached(Exception):
    """The first block was called with this input."""

    def __init__(self, hidden: mx.array) -> None:
        super().__init__()
        self.hidden = hidden


@dataclass
class Visit:
    """One call of a block: what went in, what came out, and how to call it again."""

    hidden: mx.array
    output: mx.array
    again: Callable[[mx.array], mx.array]


@contextlib.contextmanager
def blocks_called(model: nn.Module, call: Call) -> Iterator[None]:
    """Let the calls of all blocks go through a function of (index, the block, its input)."""
    kinds = [type(block) for block in blocks(model)]

    def intercepted(index: int, kind: type[nn.Module]) -> type[nn.Module]:
        def run(self: nn.Module, hidden: mx.array, *args: Any, **kwargs: Any) -> mx.array:  # noqa: ANN401
            return call(index, lambda value: kind.__call__(self, value, *args, **kwargs), hidden)

        return type(kind.__name__, (kind,), {"__call__": run})

    for index, block in enumerate(blocks(model)):
        block.__class__ = intercepted(index, kinds[index])
    try:
        yield
    finally:
        for block, kind in zip(blocks(model), kinds, strict=True):
            block.__class__ = kind


def checkpointed_gradients(
    model: nn.Module, losses: Losses
) -> tuple[tuple[mx.array, mx.array, EvalOrder], dict[str, mx.array]]:
    """Give what `nn.value_and_grad` would give for a model whose blocks are checkpointed.

    Args:
        model: its trainable arrays are differentiated.
        losses: runs the model; the first of the two sums is differentiated.

    Returns:
        The losses, and the gradients by name, in the order of the trainable arrays.

    Raises:
        ModelError: when a block is not fed what the one before it gave.
    """
    every, last = trainable_arrays(model), len(blocks(model)) - 1
    visits = visit_blocks(model, losses)
    own = [trainable_arrays(block) for block in blocks(model)]
    inner = {id(value) for arrays in own for value in arrays.values()}
    outer = {name: value for name, value in every.items() if id(value) not in inner}
    front = front_weights(model, losses, outer)
    found, cotangent, outside = head_gradients(model, losses, visits, outer)
    inside = dict(zip(map(id, outer.values()), outside, strict=True))
    trained = (index for index, arrays in enumerate(own) if arrays)
    for index in range(last, (-1 if front else next(trained, last + 1) - 1), -1):
        block = blocks(model)[index]
        cotangent, gradients = block_gradients(block, visits[index], own[index], cotangent)
        inside |= dict(zip(map(id, own[index].values()), gradients, strict=True))
    if front:
        gradients = front_gradients(model, losses, front, cotangent)
        for value, gradient in zip(front.values(), gradients, strict=True):
            inside[id(value)] = mx.add(inside[id(value)], gradient)
    return found, {name: inside[id(value)] for name, value in every.items()}


def visit_blocks(model: nn.Module, losses: Losses) -> list[Visit]:
    """Run the model, and note the calls of its blocks."""
    visits: list[Visit] = []

    def call(index: int, again: Callable[[mx.array], mx.array], hidden: mx.array) -> mx.array:
        if index != len(visits) or (visits and hidden is not visits[-1].output):
            raise ModelError(
                f"Block {index} of the model is not fed what block {index - 1} gave, so the memory "
                "of a step with train.grad_checkpoint=true cannot be planned."
            )
        visits.append(Visit(hidden, again(hidden), again))
        return visits[-1].output

    with blocks_called(model, call):
        losses()
    return visits


def head_gradients(
    model: nn.Module, losses: Losses, visits: list[Visit], outer: dict[str, mx.array]
) -> tuple[tuple[mx.array, mx.array, EvalOrder], mx.array, list[mx.array]]:
    """Differentiate what comes after the blocks.

    Returns:
        The losses, and the gradients of the last block's output and of the weights outside blocks.
    """

    def tail(arguments: list[mx.array]) -> tuple[mx.array, mx.array, EvalOrder]:
        output, *weights = arguments
        put(model, outer, weights)
        outputs = [*(visit.output for visit in visits[:-1]), output]
        with blocks_called(model, lambda index, again, hidden: outputs[index]):
            return losses()

    found, gradients = mx.value_and_grad(tail)([visits[-1].output, *outer.values()])
    put(model, outer, outer.values())
    return found, gradients[0], gradients[1:]


def block_gradients(
    block: nn.Module, visit: Visit, own: dict[str, mx.array], cotangent: mx.array
) -> tuple[mx.array, list[mx.array]]:
    """Run a block again, once its first run is done, and differentiate it.

    Returns:
        The gradients of its input and of its weights.
    """

    def run(hidden: mx.array, *weights: mx.array) -> mx.array:
        put(block, own, weights)
        return visit.again(hidden)

    primals = mx.depends([visit.hidden, *own.values()], [visit.output])
    _, gradients = mx.vjp(run, primals, [cotangent])
    put(block, own, own.values())
    return gradients[0], list(gradients[1:])


def front_weights(
    model: nn.Module, losses: Losses, outer: dict[str, mx.array]
) -> dict[str, mx.array]:
    """Pick the weights outside of blocks that what goes into the first block depends on."""
    owners = {name.rpartition(".")[0] for name in outer}
    modules = {name: module for name, module in model.named_modules() if name in owners}
    kinds = {name: type(module) for name, module in modules.items()}
    called: set[str] = set()

    def noting(name: str) -> Any:  # noqa: ANN401
        def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            called.add(name)
            return kinds[name].__call__(self, *args, **kwargs)

        return type(kinds[name].__name__, (kinds[name],), {"__call__": run})

    for name, module in modules.items():
        module.__class__ = noting(name)
    try:
        with contextlib.suppress(Reached), blocks_called(model, stop):
            losses()
    finally:
        for name, module in modules.items():
            module.__class__ = kinds[name]
    return {name: value for name, value in outer.items() if name.rpartition(".")[0] in called}


def stop(index: int, again: Callable[[mx.array], mx.array], hidden: mx.array) -> mx.array:
    """Go no further than to the first block."""
    del index, again
    raise Reached(hidden)


def front_gradients(
    model: nn.Module, losses: Losses, outer: dict[str, mx.array], cotangent: mx.array
) -> list[mx.array]:
    """Differentiate what comes before the blocks, by the weights outside blocks."""

    def front(*weights: mx.array) -> mx.array:
        put(model, outer, weights)
        try:
            with blocks_called(model, stop):
                losses()
        except Reached as reached:
            return reached.hidden
        raise AssertionError("a model has blocks")

    _, gradients = mx.vjp(front, list(outer.values()), [cotangent])
    put(model, outer, outer.values())
    return list(gradients)


def put(module: nn.Module, names: Iterable[str], weights: Iterable[mx.array]) -> None:
    """Give arrays of a module new values."""
    module.update(tree_unflatten(list(zip(names, weights, strict=True))))
