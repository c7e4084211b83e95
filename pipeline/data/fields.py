"""Fields of a row, checked one by one."""


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


def kind_of(value: object) -> str:
    """Name the type of a JSON value as JSON does."""
    if isinstance(value, bool):
        return "a boolean"
    kinds = {type(None): "null", int: "a number", float: "a number", str: "a string"}
    return kinds.get(type(value), "a list" if isinstance(value, list) else "an object")
