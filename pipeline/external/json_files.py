"""JSON files, read with the types that they must have: those of this project, and foreign ones."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pipeline.errors import PipelineError, report_problems
from pipeline.external.shapes import Shape, dotted, misfits, shown

MAX_FOREIGN_BYTES = 1 << 28
"""Of a JSON file that somebody else wrote; the largest known, tokenizers, have 40 MB."""


@dataclass(frozen=True)
class Remedy:
    """The error of a file that cannot be used, and what the user is to do."""

    error: type[PipelineError]
    text: str


def read_own(path: Path, shape: Shape, remedy: Remedy) -> Any:  # noqa: ANN401
    """Read a JSON file that this project wrote.

    Args:
        path: of the file.
        shape: what it must hold.
        remedy: how the file is made again.

    Raises:
        PipelineError: of the kind of the remedy, when the file is not what was written.
    """
    value = parsed(path, text_of(path, remedy), remedy, parse_constant=refuse_constant)
    return checked(path, value, shape, remedy)


def read_own_lines(path: Path, shape: Shape, remedy: Remedy) -> list[Any]:
    """Read a file of this project that has a JSON value on each line.

    Args:
        path: of the file.
        shape: what each line must hold.
        remedy: how the file is made again.

    Raises:
        PipelineError: of the kind of the remedy, with the line that is not what was written.
    """
    lines = text_of(path, remedy).splitlines()
    places = [path.with_name(f"{path.name}, line {number}") for number in range(1, len(lines) + 1)]
    return [
        checked(place, parsed(place, line, remedy, parse_constant=refuse_constant), shape, remedy)
        for place, line in zip(places, lines, strict=True)
    ]


def read_foreign(path: Path, shape: Shape, remedy: Remedy) -> Any:  # noqa: ANN401
    """Read a JSON file that another program wrote.

    It may have any size and NaN for a number, and texts that are no Unicode.

    Args:
        path: of the file.
        shape: what it must hold.
        remedy: how the file may be mended.

    Raises:
        PipelineError: of the kind of the remedy, when it cannot be read or holds something else.
    """
    if path.is_file() and path.stat().st_size > MAX_FOREIGN_BYTES:
        size = path.stat().st_size
        refuse(path, f"has {size:,} bytes; must have {MAX_FOREIGN_BYTES:,} at most", remedy)
    value = parsed(path, text_of(path, remedy), remedy)
    problems = [f"{key}: holds half of a surrogate pair" for key in broken_texts(value)]
    headline = f"{path}: these texts are no Unicode:"
    report_problems(remedy.error, headline, problems, remedy.text)
    return checked(path, value, shape, remedy)


def text_of(path: Path, remedy: Remedy) -> str:
    """Read a file as text."""
    if path.exists() and not path.is_file():
        refuse(path, "is a folder or a device; must be a file", remedy)
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        refuse(path, "there is no such file", remedy)
    except UnicodeDecodeError as error:
        refuse(path, f"is no UTF-8 text (byte {error.start})", remedy, error)
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror})", remedy, error)


def parsed(place: Path, text: str, remedy: Remedy, **options: Any) -> Any:  # noqa: ANN401
    """Parse a text as JSON, with options of Python's parser."""
    try:
        value = json.loads(text, **options)
        json.dumps(value)  # as deep as what walks through it later
    except RecursionError as error:
        refuse(place, "is no JSON that can be read (nested too deep)", remedy, error)
    except ValueError as error:
        refuse(place, f"is no JSON ({error})", remedy, error)
    return value


def refuse(path: Path, reason: str, remedy: Remedy, cause: Exception | None = None) -> NoReturn:
    """Raise the error of a file."""
    raise remedy.error(f"{path}: {reason}.\n{remedy.text}") from cause


def refuse_constant(name: str) -> NoReturn:
    """Refuse what Python's parser takes beyond JSON: NaN and the infinities."""
    raise ValueError(f"{name} is no number")


def checked(path: Path, value: Any, shape: Shape, remedy: Remedy) -> Any:  # noqa: ANN401
    """Return a value of a file that has a shape."""
    if not isinstance(shape, list) and not isinstance(value, dict):
        refuse(path, f"holds {shown(value)}; must hold an object", remedy)
    problems = list(misfits(value, shape))
    headline = f"{path}: these values cannot be used:"
    report_problems(remedy.error, headline, problems, remedy.text)
    return value


def broken_texts(value: Any, key: str = "") -> Iterator[str]:  # noqa: ANN401
    """List the keys with a text that no file could hold."""
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        yield key
    if isinstance(value, dict):
        for name, part in value.items():
            yield from broken_texts(name, dotted(key, name))
            yield from broken_texts(part, dotted(key, name))
    if isinstance(value, list):
        for index, part in enumerate(value):
            yield from broken_texts(part, f"{key}[{index}]")
