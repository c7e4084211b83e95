"""Where the result of an operation goes: into memory of its inputs, or into new memory.

The rules are those of MLX's `backend/common` (`binary.h`, `unary.h`, `ternary.h`, `copy.h`) and
`backend/cpu`. An operation that is not known here takes new memory for every result.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.train.plan.layout import (
    Layout,
    broadcasted,
    expanded,
    fresh,
    is_matrix_stack,
    reshaped,
    sliced,
    squeezed,
    strided,
    transposed,
)
from pipeline.train.plan.trace import ArrayShape, Node

DONATION_SLACK_BYTES = 16384
"""By how much a buffer may be larger than what is written into it (`backend/common/utils.h`)."""
BINARY = {
    "Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum", "Power", "Remainder",
    "LogAddExp", "ArcTan2", "Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual",
    "LogicalAnd", "LogicalOr", "BitwiseBinary",
}  # fmt: skip
UNARY = {
    "Abs", "ArcCos", "ArcCosh", "ArcSin", "ArcSinh", "ArcTan", "ArcTanh", "BitwiseInvert",
    "Ceil", "Cos", "Cosh", "Erf", "ErfInv", "Exp", "Expm1", "Floor", "Log", "Log1p",
    "LogicalNot", "Negative", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Sqrt", "Square",
    "Tan", "Tanh",
}  # fmt: skip


@dataclass(eq=False, slots=True)
class Buffer:
    """Memory, and how many arrays and tasks still need it."""

    num_bytes: int
    users: int = 0


@dataclass(eq=False, slots=True)
class Array:
    """An evaluated array, and how many operations and variables still refer to it."""

    layout: Layout
    buffer: Buffer
    references: int


@dataclass(frozen=True, slots=True)
class Placement:
    """What an operation does with memory.

    Attributes:
        layouts: of its results.
        sharing: whose buffer each result is in; empty where each gets a new one.
        temporary_bytes: copies of inputs that it needs while it runs.
        kernels: how many pieces of work it hands to the device.
    """

    layouts: tuple[Layout, ...]
    sharing: tuple[Array, ...] = ()
    temporary_bytes: tuple[int, ...] = ()
    kernels: int = 1


def place(node: Node, inputs: list[Array], outs: list[ArrayShape]) -> Placement:
    """Say where the results of an operation go.

    Args:
        node: the operation.
        inputs: its inputs, in order.
        outs: its results, in order.
    """
    if node.primitive in ALIASES:
        return ALIASES[node.primitive](inputs, outs)
    rule = RULES.get(node.primitive)
    placement = rule(node, inputs, outs[0]) if rule else None
    return placement or Placement(tuple(fresh(out) for out in outs))


def donates(array: Array, out: ArrayShape) -> bool:
    """Tell whether an operation may write its result over an input: nobody else needs that."""
    return (
        array.references == 1
        and array.buffer.users == 1
        and array.layout.itemsize == out.itemsize
        and array.buffer.num_bytes <= out.num_bytes + DONATION_SLACK_BYTES
    )


def like(array: Array, out: ArrayShape) -> Placement:
    """Write over an input, or into new memory that is laid out as it is."""
    if donates(array, out):
        return Placement((array.layout,), (array,))
    return Placement((replace(array.layout, itemsize=out.itemsize),))


def view(layout: Layout, source: Array) -> Placement:
    """Look at the memory of an input in another way."""
    return Placement((layout,), (source,), kernels=0)


def pass_on(sources: list[Array]) -> Placement:
    """Let results stand for arrays that there are already."""
    return Placement(tuple(source.layout for source in sources), tuple(sources), kernels=0)


def split(inputs: list[Array], outs: list[ArrayShape]) -> Placement:
    """Let every result be a part of the input."""
    steps = (1,) * len(outs[0].shape)
    layouts = tuple(sliced(inputs[0].layout, steps, out) for out in outs)
    return Placement(layouts, (inputs[0],) * len(outs), kernels=0)


def place_axes(node: Node, inputs: list[Array], out: ArrayShape) -> Placement:
    """Change what the axes are."""
    change = {
        "Transpose": transposed,
        "ExpandDims": expanded,
        "Squeeze": squeezed,
        "AsStrided": lambda layout, _, out: strided(layout, tuple(node.arguments[1]), out),
        "Slice": lambda layout, _, out: sliced(layout, tuple(node.arguments[2]), out),
        "Broadcast": lambda layout, _, out: broadcasted(layout, out),
        "BroadcastAxes": lambda layout, _, out: broadcasted(layout, out),
    }[node.primitive]
    return view(change(inputs[0].layout, tuple(node.arguments[0]), out), inputs[0])


def place_reshape(node: Node, inputs: list[Array], out: ArrayShape) -> Placement | None:
    """Share memory where the strides allow it, else copy."""
    del node
    layout = reshaped(inputs[0].layout, out)
    return None if layout is None else view(layout, inputs[0])


def place_unary(node: Node, inputs: list[Array], out: ArrayShape) -> Placement | None:
    """Write over the input, or into memory laid out as it is."""
    del node
    return like(inputs[0], out) if inputs[0].layout.contiguous else None


def place_binary(node: Node, inputs: list[Array], out: ArrayShape) -> Placement | None:
    """Write over an input that is as large as the result, if any."""
    del node
    one, other = (array.layout for array in inputs)
    if one.data_size == 1 and other.data_size == 1:
        return Placement((replace(one, itemsize=out.itemsize),))
    if one.data_size == 1 and other.contiguous:
        return like(inputs[1], out)
    if other.data_size == 1 and one.contiguous:
        return like(inputs[0], out)
    if (one.row_contiguous and other.row_contiguous) or (
        one.col_contiguous and other.col_contiguous
    ):
        return like(inputs[0 if donates(inputs[0], out) or not donates(inputs[1], out) else 1], out)
    return over_rows(inputs, out)


def place_select(node: Node, inputs: list[Array], out: ArrayShape) -> Placement | None:
    """Write over one of the three inputs."""
    del node
    layouts = [array.layout for array in inputs]
    if all(layout.data_size == 1 for layout in layouts):
        return Placement((replace(layouts[1], itemsize=out.itemsize),))
    for flag in ("row_contiguous", "col_contiguous"):
        if all(getattr(layout, flag) for layout in layouts):
            donors = [array for array in inputs if donates(array, out)]
            return like((donors or inputs[1:])[0], out)
    return over_rows(inputs, out)


def over_rows(inputs: list[Array], out: ArrayShape) -> Placement | None:
    """Write over the first input that is whole and in row-major order."""
    for array in inputs:
        layout = array.layout
        if layout.row_contiguous and layout.shape == out.shape and donates(array, out):
            return Placement((layout,), (array,))
    return None


def place_softmax(node: Node, inputs: list[Array], out: ArrayShape) -> Placement | None:
    """Write over the input where its rows are whole, else over a copy."""
    del node
    layout = inputs[0].layout
    return like(inputs[0], out) if layout.contiguous and layout.strides[-1] == 1 else None


def place_overwrite(node: Node, inputs: list[Array], out: ArrayShape) -> Placement:
    """Copy the first input, or take it over, and write parts of it."""
    del node
    whole = like(inputs[0], out) if inputs[0].layout.row_contiguous else Placement((fresh(out),))
    return replace(whole, kernels=2)


def place_product(node: Node, inputs: list[Array], out: ArrayShape) -> Placement:
    """Multiply matrices; one whose rows or columns are not whole is copied first."""
    del node
    copies = [array.layout.num_bytes for array in inputs[:2] if not is_matrix_stack(array.layout)]
    return Placement((fresh(out),), (), tuple(copies), 1 + len(copies))


def place_rows(node: Node, inputs: list[Array], out: ArrayShape) -> Placement:
    """Read whole rows only; other inputs are copied first."""
    del node
    copies = [array.layout.num_bytes for array in inputs if not array.layout.row_contiguous]
    return Placement((fresh(out),), (), tuple(copies), 1 + len(copies))


def place_concatenation(node: Node, inputs: list[Array], out: ArrayShape) -> Placement:
    """Copy one input after the other."""
    del node
    return Placement((fresh(out),), kernels=len(inputs))


ALIASES: dict[str, Callable[[list[Array], list[ArrayShape]], Placement]] = {
    **dict.fromkeys(
        ("StopGradient", "Copy", "Depends"), lambda ins, outs: pass_on(ins[: len(outs)])
    ),
    "CustomTransforms": lambda ins, outs: pass_on(ins[-len(outs) :]),
    "Split": split,
}
RULES: dict[str, Callable[[Node, list[Array], ArrayShape], Placement | None]] = {
    **dict.fromkeys(
        ("Transpose", "ExpandDims", "Squeeze", "AsStrided", "Slice", "Broadcast", "BroadcastAxes"),
        place_axes,
    ),
    **dict.fromkeys(("Reshape", "Flatten", "Unflatten"), place_reshape),
    **dict.fromkeys(UNARY, place_unary),
    **dict.fromkeys(("AsType", "Contiguous"), place_unary),
    **dict.fromkeys(BINARY, place_binary),
    "Select": place_select,
    "Softmax": place_softmax,
    **dict.fromkeys(("Scatter", "ScatterAxis", "SliceUpdate"), place_overwrite),
    **dict.fromkeys(("Matmul", "GatherMM"), place_product),
    **dict.fromkeys(("QuantizedMatmul", "GatherQMM", "LogSumExp"), place_rows),
    "Concatenate": place_concatenation,
}
