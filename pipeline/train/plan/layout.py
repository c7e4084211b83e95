"""How MLX lays arrays out in memory: strides, and what of them is without holes.

Whether an operation shares its input's memory, writes into it or takes new memory depends on
these. The rules are those of MLX's `backend/common` (`common.cpp`, `slicing.cpp`, `utils.cpp`).
"""

from dataclasses import dataclass, replace
from math import prod

from pipeline.train.plan.trace import ArrayShape


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the elements of an array lie.

    Attributes:
        shape: of the array.
        itemsize: bytes of one element.
        strides: elements to step over, per axis; 0 along an axis that is broadcast.
        data_size: elements of memory that the array spans.
        contiguous: whether that memory has no holes, whatever the order.
        row_contiguous: whether it is in row-major order.
        col_contiguous: whether it is in column-major order.
    """

    shape: tuple[int, ...]
    itemsize: int
    strides: tuple[int, ...]
    data_size: int
    contiguous: bool
    row_contiguous: bool
    col_contiguous: bool

    @property
    def num_bytes(self) -> int:
        """Count the bytes of all elements, broadcast ones as often as they occur."""
        return prod(self.shape) * self.itemsize


def fresh(array: ArrayShape) -> Layout:
    """Lay an array out in new memory, row by row."""
    size = array.size
    column = size <= 1 or size == max(array.shape)
    strides = row_strides(array.shape)
    return Layout(array.shape, array.itemsize, strides, size, True, True, column)


def row_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the strides of row-major order."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def contiguity(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, bool, bool]:
    """Count the elements that are not broadcast, and tell whether rows, columns are in order."""
    size, row, column = 1, True, True
    forward, backward = 1, 1
    for index, (length, stride) in enumerate(zip(shape, strides, strict=True)):
        last = len(shape) - 1 - index
        column &= stride == forward or length == 1
        row &= strides[last] == backward or shape[last] == 1
        forward, backward = forward * length, backward * shape[last]
        size *= length if stride > 0 else 1
    return size, row, column


def transposed(layout: Layout, axes: tuple[int, ...], out: ArrayShape) -> Layout:
    """Exchange axes."""
    strides = tuple(layout.strides[axis] for axis in axes)
    row, column = layout.row_contiguous, layout.col_contiguous
    if layout.contiguous and layout.data_size == prod(layout.shape):
        _, row, column = contiguity(out.shape, strides)
    return replace(
        layout, shape=out.shape, strides=strides, row_contiguous=row, col_contiguous=column
    )


def broadcasted(layout: Layout, out: ArrayShape) -> Layout:
    """Repeat along axes, without more memory."""
    missing = len(out.shape) - len(layout.shape)
    own = zip(layout.shape, layout.strides, strict=True)
    strides = (0,) * missing + tuple(0 if length == 1 else stride for length, stride in own)
    same = out.size == prod(layout.shape)
    return replace(
        layout,
        shape=out.shape,
        strides=strides,
        row_contiguous=same and layout.row_contiguous,
        col_contiguous=same and layout.col_contiguous,
    )


def sliced(layout: Layout, steps: tuple[int, ...], out: ArrayShape) -> Layout:
    """Take a part of every axis."""
    strides = tuple(stride * step for stride, step in zip(layout.strides, steps, strict=True))
    reach = zip(out.shape, strides, strict=True)
    span = 1 + sum((length - 1) * abs(stride) for length, stride in reach)
    size, row, column = contiguity(out.shape, strides)
    return Layout(out.shape, layout.itemsize, strides, span, size == span, row, column)


def expanded(layout: Layout, axes: tuple[int, ...], out: ArrayShape) -> Layout:
    """Add axes of length 1."""
    strides = list(layout.strides)
    for axis in axes:
        strides.insert(axis, 1)
    return replace(layout, shape=out.shape, strides=tuple(strides))


def squeezed(layout: Layout, axes: tuple[int, ...], out: ArrayShape) -> Layout:
    """Drop axes of length 1."""
    strides = tuple(stride for axis, stride in enumerate(layout.strides) if axis not in axes)
    return replace(layout, shape=out.shape, strides=strides)


def strided(layout: Layout, strides: tuple[int, ...], out: ArrayShape) -> Layout:
    """Read memory with strides given by hand."""
    size, row, column = contiguity(out.shape, strides)
    span = size if row or column else out.size
    return Layout(out.shape, layout.itemsize, strides, span, row or column, row, column)


def reshaped(layout: Layout, out: ArrayShape) -> Layout | None:
    """Read the elements in another shape; None where they must be copied for that."""
    if layout.row_contiguous or not layout.num_bytes:
        column = layout.data_size <= 1 or layout.data_size == max(out.shape, default=1)
        return replace(
            layout, shape=out.shape, strides=row_strides(out.shape), col_contiguous=column
        )
    if not layout.shape:
        return replace(layout, shape=out.shape, strides=(0,) * len(out.shape))
    lengths, steps = collapsed(layout)
    strides, axis = [], 0
    for length in out.shape:
        if axis < len(lengths) and lengths[axis] % length == 0:
            lengths[axis] //= length
            strides.append(lengths[axis] * steps[axis])
            axis += lengths[axis] == 1
        elif length == 1:
            strides.append(strides[-1])
        else:
            return None
    return replace(layout, shape=out.shape, strides=tuple(strides))


def collapsed(layout: Layout) -> tuple[list[int], list[int]]:
    """Merge neighbouring axes that are stepped through as one; give lengths and strides."""
    lengths, strides = [], []
    for length, stride in zip(layout.shape, layout.strides, strict=True):
        if length == 1:
            continue
        if lengths and strides[-1] == length * stride:
            lengths[-1] *= length
            strides[-1] = stride
        else:
            lengths.append(length)
            strides.append(stride)
    return (lengths, strides) if lengths else ([1], [0])


def is_matrix_stack(layout: Layout) -> bool:
    """Tell whether a matrix product can read the last two axes as they lie."""
    (rows, columns), (down, across) = layout.shape[-2:], layout.strides[-2:]
    return (down == columns and across == 1) or (down == 1 and across == rows)
