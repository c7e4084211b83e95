"""Reads JSONL files line by line, in constant memory for lines of any length."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import orjson

from pipeline.data.rows.fields import RowError
from pipeline.data.splits import Split
from pipeline.errors import DataError

BOM = b"\xef\xbb\xbf"
SKIP_BYTES = 1 << 20
SPLIT_NAMES: dict[str, Split] = {
    "train.jsonl": "train",
    "valid.jsonl": "validation",
    "validation.jsonl": "validation",
    "test.jsonl": "test",
}


def split_named_by(file: Path) -> Split | None:
    """Return the split that the name of a file stands for, as in folders for mlx-lm."""
    return SPLIT_NAMES.get(file.name)


def iterate_lines(
    file: Path, max_line_bytes: int, counts: Counter[str]
) -> Iterator[tuple[int, bytes]]:
    """Yield the number of each line, from 1, and the line without its end.

    A line that is too long is cut to `max_line_bytes` + 1 bytes, from which `parse_line` knows it.

    Args:
        file: what to read.
        max_line_bytes: longest line.
        counts: where `bom_files`, `crlf_lines` and `missing_final_newlines` are counted.

    Raises:
        DataError: when the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(len(BOM)) == BOM:
                counts["bom_files"] += 1
            else:
                stream.seek(0)
            number, most = 0, max_line_bytes + len(b"\r\n")
            while line := stream.readline(most):
                number += 1
                newline = line.endswith(b"\n")
                while not newline and (rest := stream.readline(SKIP_BYTES)):
                    newline = rest.endswith(b"\n")
                if not newline:
                    counts["missing_final_newlines"] += 1
                if line.endswith(b"\r\n"):
                    counts["crlf_lines"] += 1
                yield number, line.removesuffix(b"\n").removesuffix(b"\r")[: max_line_bytes + 1]
    except OSError as error:
        raise DataError(f"data.path: {file} cannot be read: {error.strerror}.") from error


def parse_line(line: bytes, max_line_bytes: int) -> object:
    """Read the JSON value of a line.

    Raises:
        RowError: when the line is too long, no UTF-8, or no JSON.
    """
    if len(line) > max_line_bytes:
        raise RowError(f"the line is longer than data.max_line_bytes={max_line_bytes}")
    if b"\0" in line:
        raise RowError("the line holds a NUL byte; the file may be UTF-16 or binary, not UTF-8")
    try:
        return loaded(line)
    except UnicodeDecodeError as error:
        raise RowError(f"invalid UTF-8 at byte {error.start}: {error.reason}") from None
    except RecursionError:
        raise RowError("invalid JSON: nested too deeply") from None
    except RowError:
        raise
    except ValueError as error:
        raise RowError(f"invalid JSON: {error}") from None


def loaded(line: bytes) -> object:
    """Read a JSON value, with orjson where it is an object of strings, which most rows are.

    For other values orjson would differ: it makes floats of large integers, and its errors say less
    than those of Python.

    Raises:
        ValueError: when it is no JSON.
    """
    try:
        value = orjson.loads(line)
        if type(value) is dict and {*map(type, value.values())} == {str}:
            return value
    except orjson.JSONDecodeError:
        pass
    return DECODER.decode(line.decode("utf-8"))


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads and JSON does not have.

    Raises:
        RowError: always.
    """
    raise RowError(f"invalid JSON: {name} is no JSON number")


DECODER = json.JSONDecoder(parse_constant=refuse_constant)
