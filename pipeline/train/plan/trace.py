"""The graph of a computation, recorded without computing it.

Only this module uses `mx.export_function`, an experimental part of MLX; a test states what it must
do. Compiled functions are traced operation by operation, as they run under a gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.device import mx


@dataclass(frozen=True)
class ArrayShape:
    """The shape of an array, and the bytes of one element."""

    shape: tuple[int, ...]
    itemsize: int

    @property
    def size(self) -> int:
        """Count the elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def num_bytes(self) -> int:
        """Count the bytes that the whole array takes."""
        return self.size * self.itemsize


@dataclass(frozen=True)
class Node:
    """One operation: name and arguments as in MLX, inputs and outputs by the names of arrays."""

    primitive: str
    arguments: tuple[Any, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """A traced function.

    Attributes:
        inputs: names of its arguments, in order.
        outputs: names of its results, in order.
        constants: names of arrays that belong to the function.
        nodes: operations, each after those whose results it reads.
        arrays: shape and size by name.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[str, ...]
    nodes: tuple[Node, ...]
    arrays: dict[str, ArrayShape]


def trace(function: Callable[..., list[mx.array]], arguments: Sequence[mx.array]) -> Graph:
    """Record the graph that a function builds.

    Args:
        function: takes arrays as separate arguments, and does not read their values.
        arguments: only their shapes and types count; they are not evaluated.

    Raises:
        ValueError: when the graph contains an operation that MLX cannot export.
    """
    events: list[dict[str, Any]] = []
    mx.export_function(events.append, function, *arguments)
    arrays: dict[str, ArrayShape] = {}

    def names(entries: Sequence[tuple[str, tuple[int, ...], mx.Dtype]]) -> tuple[str, ...]:
        for name, shape, dtype in entries:
            arrays[name] = ArrayShape(tuple(shape), dtype.size)
        return tuple(name for name, _, _ in entries)

    found = {event["type"]: event for event in events if event["type"] != "primitive"}
    constants = found.get("constants", {}).get("constants", [])
    return Graph(
        inputs=names(found["inputs"]["inputs"]),
        outputs=names(found["outputs"]["outputs"]),
        constants=names([(name, value.shape, value.dtype) for name, value in constants]),
        nodes=tuple(
            Node(
                event["name"],
                tuple(event.get("arguments", ())),
                names(event["inputs"]),
                names(event["outputs"]),
            )
            for event in events
            if event["type"] == "primitive"
        ),
        arrays=arrays,
    )
