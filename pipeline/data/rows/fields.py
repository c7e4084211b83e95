"""Checks of single values of a row: strings that can be written, numbers in their range."""

import math
from collections.abc import Iterator

from pipeline.errors import printable

MAX_WEIGHT = 1.0
MAX_DEPTH = 100
"""Of lists and objects inside each other; deeper ones break programs that read them."""


class RowError(ValueError):
    """What is wrong with a row; the reader of the file adds the file and the line."""

    def __init__(self, problem: str) -> None:
        """Escape what cannot be printed, because a message may repeat what the row has."""
        super().__init__(printable(problem))


def checked_text(name: str, value: object) -> str:
    """Return a value that is a string with text in it, and can be written as UTF-8.

    Raises:
        RowError: when it is something else.
    """
    if not isinstance(value, str):
        raise RowError(f"{name} is {kind_of(value)}, not a string")
    if not value.strip():
        raise RowError(f"{name} is empty" if not value else f"{name} is only white space")
    check_characters(name, value)
    return value


def check_characters(name: str, value: str) -> None:
    """Refuse NUL, and surrogates that have no partner.

    Raises:
        RowError: with the character.
    """
    if "\0" in value:
        raise RowError(f"{name} holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        broken = value[error.start].encode("unicode_escape").decode()
        raise RowError(f"{name} holds half a surrogate pair ({broken})") from None


def strings_in(value: object, depth: int = 0) -> Iterator[str]:
    """Yield every string inside a JSON value, keys included.

    Raises:
        RowError: when lists and objects are nested too deeply, or a value is none of JSON, such as
            a date of a table.
    """
    if depth > MAX_DEPTH:
        raise RowError(f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from map(checked_key, value)
        for part in value.values():
            yield from strings_in(part, depth + 1)
    elif isinstance(value, list):
        for part in value:
            yield from strings_in(part, depth + 1)
    elif not (value is None or isinstance(value, bool | int) or is_finite(value)):
        raise RowError(f"holds {str(value)[:40]} ({type(value).__name__}), which JSON has not")


def checked_key(key: object) -> str:
    """Return a key that is a string.

    Raises:
        RowError: when it is none.
    """
    if not isinstance(key, str):
        raise RowError(f"holds a key that is no string: {str(key)[:40]}")
    return key


def is_finite(value: object) -> bool:
    """Whether a value is a float that is a number."""
    return isinstance(value, float) and math.isfinite(value)


def checked_number(name: str, value: object, maximum: float) -> float:
    """Return a value that is a number from 0 to `maximum`.

    Raises:
        RowError: when it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"{name} is {kind_of(value)}, not a number")
    if not 0 <= value <= maximum:  # also false for NaN
        raise RowError(f"{name} is {value}, not between 0 and {maximum:g}")
    return float(value)


def kind_of(value: object) -> str:
    """Name the type of a JSON value as JSON does."""
    if isinstance(value, bool):
        return "a boolean"
    kinds = {type(None): "null", int: "a number", float: "a number", str: "a string"}
    return kinds.get(type(value), "a list" if isinstance(value, list) else "an object")
