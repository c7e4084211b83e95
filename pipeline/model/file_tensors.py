"""The tensors of a base's own files, computed back from the arrays of its model.

mlx-lm's `sanitize` makes the arrays of a model from the tensors of files. It renames them, stacks
experts, cuts, turns, adds constants to norms, and drops a vision tower: each architecture in its
own way. All of these are y = L x + c, where L moves each number to one place. So the inverse of L
is its transpose, and that is what a vector-Jacobian product computes, of any such function.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, cast

from pipeline.device import mx, nn
from pipeline.errors import ModelError, report_problems

Shapes = dict[str, tuple[int, ...]]
HEAD = "lm_head.weight"
ONLY_ADAPTER = (
    "Its tensors cannot be written by the names that other programs know. "
    "Use export.formats=[adapter]."
)


def file_tensors(
    model: nn.Module, shapes: Shapes, arrays: dict[str, mx.array]
) -> dict[str, mx.array]:
    """Compute the tensors of files from the arrays of a model; no number is read yet.

    Args:
        model: of the architecture that the arrays belong to.
        shapes: of the tensors that the files hold.
        arrays: of the model, in float32.

    Returns:
        Tensors by the names of the files, in float32. Those that the model does not read are zero.

    Raises:
        ModelError: when the arrays of this architecture cannot be turned back into tensors.
    """

    def without_constants(added: list[mx.array]) -> list[mx.array]:
        return [without(value, added.pop(0)) for value in arrays.values()]

    return pushed_back(arrangement(model, shapes, arrays), shapes, mx.float32, without_constants)


def tensors_read(model: nn.Module, shapes: Shapes, arrays: dict[str, mx.array]) -> set[str]:
    """List the tensors of files that a model reads, each number of them once.

    One is pushed back from each number of the model. It arrives at each number of a tensor that is
    read, and none arrives where a tensor is dropped.

    Args:
        model: of the architecture that the arrays belong to.
        shapes: of the tensors that the files hold.
        arrays: of the model.

    Raises:
        ModelError: with each tensor whose numbers are scaled, mixed, or read only in part.
    """

    def ones(like: list[mx.array]) -> list[mx.array]:
        return [filled(1, each.shape, each.dtype) for each in like]

    pushed = pushed_back(arrangement(model, shapes, arrays), shapes, mx.bfloat16, ones)
    counts = {name: extremes(pushed.pop(name)) for name in by_stack(shapes)}
    problems = [
        f"{name}: its numbers are read {low:g} to {high:g} times"
        for name, (low, high) in counts.items()
        if (low, high) not in {(0, 0), (1, 1)}
    ]
    headline = "These tensors are not moved but changed as they are read:"
    report_problems(ModelError, headline, problems, ONLY_ADAPTER)
    return {name for name, (low, _) in counts.items() if low == 1}


def arrangement(
    model: nn.Module, shapes: Shapes, arrays: dict[str, mx.array]
) -> Callable[..., list[mx.array]]:
    """Make the function from the tensors of files to the arrays of a model, in the orders given.

    Raises:
        ModelError: when it does not give these arrays.
    """
    kind, arguments = cast(Any, type(model)), cast(Any, model).args

    def arranged(*tensors: mx.array) -> list[mx.array]:
        fresh = kind(arguments)  # some change themselves as they read
        found = getattr(fresh, "sanitize", dict)(dict(zip(shapes, tensors, strict=True)))
        return [found[name] for name in arrays]

    try:
        found = arranged(*(filled(0, shape, mx.float32) for shape in shapes.values()))
    except Exception as error:  # each architecture rearranges its tensors in its own way
        raise ModelError(
            f"Tensors of these files cannot be told from the model ({error!r}).\n{ONLY_ADAPTER}"
        ) from error
    problems = [
        f"{name}: {value.shape} of the files, {wanted.shape} of the model"
        for (name, wanted), value in zip(arrays.items(), found, strict=True)
        if value.shape != wanted.shape
    ]
    report_problems(ModelError, "These arrays differ in shape:", problems, ONLY_ADAPTER)
    return arranged


def pushed_back(
    arranged: Callable[..., list[mx.array]],
    shapes: Shapes,
    dtype: mx.Dtype,
    pushed: Callable[[list[mx.array]], list[mx.array]],
) -> dict[str, mx.array]:
    """Push numbers of a model's arrays back into tensors of its files; none is computed yet.

    No list of what is pushed stays, which would keep all of it in memory once it is computed.

    Args:
        arranged: the function from tensors to arrays.
        shapes: of the tensors.
        dtype: in which to compute.
        pushed: returns what is pushed, from the constants that the function adds.

    Raises:
        ModelError: when a step of the arrangement has no derivative, as on packed integers.
    """
    zeros = [filled(0, shape, dtype) for shape in shapes.values()]
    try:
        _, found = mx.vjp(arranged, zeros, pushed(arranged(*zeros)))
    except Exception as error:  # each architecture rearranges its tensors in its own way
        raise ModelError(
            f"Tensors of these files cannot be computed back ({error!r}).\n{ONLY_ADAPTER}"
        ) from error
    return dict(zip(shapes, found, strict=True))


def without(value: mx.array, added: mx.array) -> mx.array:
    """Subtract what was added, if anything was: most arrays stay as they are, and are no copy."""
    return value - added if bool(mx.any(added)) else value


def filled(number: int, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Return an array of one number, which is in memory once, however large the shape."""
    return mx.broadcast_to(mx.array(number, dtype), shape)


def by_stack(names: Iterable[str]) -> list[str]:
    """Sort names so that the experts of one stack follow each other.

    The stack is computed for the first of them, and can be dropped after the last.
    """
    return sorted(names, key=stack_and_number)


def stack_and_number(name: str) -> tuple[str, str, int]:
    """Split a name at its last number, which counts the experts where there are any."""
    before, number, after = re.findall(r"^(.*?)(\d*)(\D*)$", name)[0]
    return before, after, int(number or 0)


def extremes(value: mx.array) -> tuple[float, float]:
    """Return the least and the greatest number of an array."""
    return float(value.min()), float(value.max())
