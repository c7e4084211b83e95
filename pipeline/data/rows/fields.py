"""What every value of a row must be: a string that can be written, or a number in its range."""

from collections.abc import Iterator

MAX_WEIGHT = 1.0


class RowError(ValueError):
    """What is wrong with a row; who reads the file adds where it stands."""


def checked_text(name: str, value: object) -> str:
    """Refuse what is no string, or a string that says nothing or cannot be written as UTF-8.

    Raises:
        RowError: with what is wrong.
    """
    if not isinstance(value, str):
        raise RowError(f"{name} is {kind_of(value)}, not a string")
    if not value.strip():
        raise RowError(f"{name} is empty" if not value else f"{name} is only white space")
    check_characters(name, value)
    return value


def check_characters(name: str, value: str) -> None:
    """Refuse characters that no text has.

    Raises:
        RowError: with what is wrong.
    """
    if "\0" in value:
        raise RowError(f"{name} holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        broken = value[error.start].encode("unicode_escape").decode()
        raise RowError(f"{name} holds half a surrogate pair ({broken})") from None


def strings_in(value: object) -> Iterator[str]:
    """Give every string inside a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        yield from strings_in(list(value.values()))
    elif isinstance(value, list):
        for part in value:
            yield from strings_in(part)


def checked_number(name: str, value: object, maximum: float) -> float:
    """Refuse what is no number from 0 to `maximum`.

    Raises:
        RowError: with what is wrong.
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
