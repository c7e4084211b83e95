"""The types that values read from a file must have; each fault is named with its key.

A shape describes a value: a `Kind` is one value; a dictionary is an object with at least these
keys, of which a `Maybe` may be absent or null; `[shape]` is a list of such; `Every(shape)` is an
object with keys of any name.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_SHOWN = 60
"""Letters of a wrong value in a message."""
Shape = Any
"""A `Kind`, `Maybe`, `Every`, or a dictionary or list of shapes."""


@dataclass(frozen=True)
class Kind:
    """What one value must be.

    Attributes:
        words: what a message says that it must be.
        fits: whether a value is one.
    """

    words: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Maybe:
    """A value that may be absent or null."""

    shape: Shape


@dataclass(frozen=True)
class Every:
    """An object whose values are all of one shape."""

    shape: Shape


def whole(low: int, high: int) -> Kind:
    """Return the kind of whole numbers between two, both included."""
    return Kind(
        f"a whole number from {low:,} to {high:,}",
        lambda value: type(value) is int and low <= value <= high,
    )


def is_finite(value: object) -> bool:
    """Whether a value is a number, and neither NaN nor infinite."""
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))


TEXT = Kind("text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a finite number", is_finite)
COUNT = whole(0, 2**63 - 1)


def one_or_more(kind: Kind) -> Kind:
    """Return the kind of a value, or of a list of them."""
    return Kind(
        f"{kind.words}, or a list of such",
        lambda value: all(map(kind.fits, value)) if isinstance(value, list) else kind.fits(value),
    )


def misfits(value: Any, shape: Shape, key: str = "") -> Iterator[str]:  # noqa: ANN401
    """Describe each part of a value that does not have its shape."""
    if isinstance(shape, Kind):
        if not shape.fits(value):
            yield f"{key}: is {shown(value)}; must be {shape.words}"
    elif isinstance(shape, Maybe):
        yield from misfits(value, shape.shape, key) if value is not None else ()
    elif isinstance(shape, list):
        yield from list_misfits(value, shape[0], key)
    elif not isinstance(value, dict):
        yield f"{key}: is {shown(value)}; must be an object"
    elif isinstance(shape, Every):
        for name, part in value.items():
            yield from misfits(part, shape.shape, dotted(key, name))
    else:
        yield from object_misfits(value, shape, key)


def list_misfits(value: Any, shape: Shape, key: str) -> Iterator[str]:  # noqa: ANN401
    """Describe what is wrong with a list."""
    if not isinstance(value, list):
        yield f"{key}: is {shown(value)}; must be a list"
        return
    for index, part in enumerate(value):
        yield from misfits(part, shape, f"{key}[{index}]")


def object_misfits(value: dict[str, Any], shape: Mapping[str, Shape], key: str) -> Iterator[str]:
    """Describe what is wrong with an object of named keys."""
    for name, part in shape.items():
        if name in value:
            yield from misfits(value[name], part, dotted(key, name))
        elif not isinstance(part, Maybe):
            yield f"{dotted(key, name)}: is missing"


def dotted(key: str, name: str) -> str:
    """Return the name of a key in an object."""
    return f"{key}.{name}" if key else name


def shown(value: Any) -> str:  # noqa: ANN401
    """Write a wrong value in a few letters."""
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
