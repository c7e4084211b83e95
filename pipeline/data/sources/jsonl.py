"""Rows from JSONL files, which are read line by line in constant memory."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import orjson

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.formats import PLAIN_ROWS, RowReader
from pipeline.data.rows.records import Record
from pipeline.data.sources.source import BadRow, Row, RowSource, Splitter
from pipeline.errors import DataError
from pipeline.external.sources import jsonl_files

BOM = b"\xef\xbb\xbf"
SKIP_BYTES = 1 << 20


@dataclass(frozen=True)
class JsonlRows(RowSource):
    """The rows of `data.path`, which can be read as often as needed.

    Attributes:
        name: names the data in a message.
        path: a JSONL file or a folder of them.
        splitter: chooses the split of a row.
        max_line_bytes: longest line of a file.
        reader: makes records of rows.
        chosen: the files to read; None: all.

    Raises:
        DataError: when there are no files.
    """

    name: str
    path: Path
    splitter: Splitter
    max_line_bytes: int
    reader: RowReader = PLAIN_ROWS
    chosen: tuple[Path, ...] | None = None

    def files(self) -> Sequence[Path]:
        """List the files to read."""
        return jsonl_files(self.path) if self.chosen is None else self.chosen

    def divided(self, number: int) -> list["JsonlRows"]:
        """Return at most `number` sources, each of some files, about as large as the others."""
        groups = list[list[Path]]([] for _ in range(number))
        total, before = max(self.total_bytes(), 1), 0
        for file in self.files():
            size = file.stat().st_size
            groups[(2 * before + size) * number // (2 * total + 1)].append(file)
            before += size
        return [replace(self, chosen=tuple(group)) for group in groups if group] or [self]

    def read(self, counts: Counter[str]) -> Iterator[Row | BadRow]:
        """Yield rows, good and bad ones, in their order; add what is counted to `counts`.

        Blank lines are left out and counted.
        """
        splitter = self.splitter.for_files(self.path, jsonl_files(self.path))
        reader = replace(self.reader, counts=counts)
        for file in self.files():
            row_of = splitter.rows_of(file)
            for line, raw in iterate_lines(file, self.max_line_bytes, counts):
                if not raw.strip():
                    counts["blank_lines"] += 1
                    continue
                counts["rows"] += 1
                yield row_of(line, raw, partial(self.record_of, reader, raw))

    def record_of(self, reader: RowReader, line: bytes) -> Record:
        """Make a record of a line.

        Raises:
            RowError: with what is wrong with it.
        """
        return reader.record_of(parse_line(line, self.max_line_bytes))


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
        if type(value) is dict and {*map(type, value.values())} == {str} and has_all(value, line):
            return value
    except orjson.JSONDecodeError:
        pass
    return DECODER.decode(line.decode("utf-8"))


def has_all(value: dict[str, str], line: bytes) -> bool:
    """Whether an object of strings has every key of its line; orjson keeps the last of equal keys.

    Each key and each value stands in two quotes. Where a backslash is escaped, quotes are not
    counted, and the answer is False.
    """
    if b"\\\\" in line:
        return False
    return line.count(b'"') - line.count(b'\\"') == 4 * len(value)


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads and JSON does not have.

    Raises:
        RowError: always.
    """
    raise RowError(f"invalid JSON: {name} is no JSON number")


def finite(number: str) -> float:
    """Read a number; refuse one that is too large for one.

    Raises:
        RowError: with the number.
    """
    value = float(number)
    if math.isinf(value):
        raise RowError(f"invalid JSON: {number} is too large for a number")
    return value


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; refuse a key that stands there twice.

    Raises:
        RowError: with the first such key.
    """
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise RowError(f"the key {twice!r} stands twice in one object; keep one")
    return value


DECODER = json.JSONDecoder(
    parse_constant=refuse_constant, parse_float=finite, object_pairs_hook=without_twins
)
