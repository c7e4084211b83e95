"""Rows that are read, checked, and have their split: from JSONL files or the built-in world."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Record, parse_record
from pipeline.data.sources.jsonl import iterate_lines, parse_line, split_named_by
from pipeline.data.splits import Split, split_of
from pipeline.errors import MAX_LISTED_PROBLEMS, DataError, report_problems
from pipeline.external.sources import jsonl_files

QUARANTINE = "quarantine.jsonl"
SHOWN_LINES = 5
WORLD = Path("conflicts")


class Row(NamedTuple):
    """A row that was read and checked.

    Attributes:
        file: the file it is from; `conflicts` for the built-in world.
        line: number of its line, from 1.
        raw: the bytes of the line.
        record: the checked content.
        content_hash: the hash of the record.
        split: the split it belongs to.
    """

    file: Path
    line: int
    raw: bytes
    record: Record
    content_hash: bytes
    split: Split


class BadRow(NamedTuple):
    """A row that cannot be used.

    Attributes:
        file: the file it is from.
        line: number of its line, from 1.
        raw: the bytes of the line.
        error: what is wrong with it.
    """

    file: Path
    line: int
    raw: bytes
    error: RowError


@runtime_checkable
class RowSource(Protocol):
    """Rows that can be read as often as needed."""

    @property
    def name(self) -> str:
        """Name the data in a message."""
        ...

    def total_bytes(self) -> int:
        """Return the size of the files that are read, in bytes; 0 where there are none."""
        ...

    def read(self, counts: Counter[str]) -> Iterator[Row | BadRow]:
        """Yield rows, good and bad ones, in their order; add what is counted to `counts`."""
        ...

    def divided(self, number: int) -> Sequence["RowSource"]:
        """Return at most `number` sources that yield these rows one after the other."""
        ...


class BadRows:
    """Collects rows that cannot be used, and raises an error when there are more than allowed.

    Reading goes on until 20 problems are known or the rows end, so that one run shows them all.

    Args:
        allowed: how many may be left out (`data.max_bad_rows`).
        quarantine: the file that these are written to, created with the first one; None: no file.
        whole_paths: write whole paths of files there, in place of their names.
    """

    def __init__(
        self, allowed: int, quarantine: Path | None = None, whole_paths: bool = False
    ) -> None:
        self.allowed, self.quarantine, self.count = allowed, quarantine, 0
        self.whole_paths = whole_paths
        self._lines: dict[tuple[Path, str], list[int]] = {}

    def add(self, file: Path, line: int, raw: bytes, reason: str) -> None:
        """Leave a row out.

        Raises:
            DataError: when more rows are bad than allowed, and enough problems are known.
        """
        self.count += 1
        if self.count <= MAX_LISTED_PROBLEMS:
            self._lines.setdefault((file, reason), []).append(line)
        if self.quarantine:
            entry = {
                "file": str(file) if self.whole_paths else file.name,
                "line": line,
                "reason": reason,
            }
            entry["row"] = raw.decode("utf-8", errors="replace")
            with self.quarantine.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
        if self.count >= max(self.allowed + 1, MAX_LISTED_PROBLEMS):
            self.finish()

    def finish(self) -> None:
        """Raise the error if more rows are bad than allowed.

        Raises:
            DataError: with the first problems.
        """
        if self.count <= self.allowed:
            return
        report_problems(
            DataError,
            f"{self.count} bad rows so far, and data.max_bad_rows={self.allowed}:",
            [described(file, reason, lines) for (file, reason), lines in self._lines.items()],
            f"Mend them, or set data.max_bad_rows higher to move bad rows into {QUARANTINE}.",
        )


def described(file: Path, reason: str, lines: Sequence[int]) -> str:
    """Describe, in one line, rows of a file that have the same thing wrong with them."""
    if len(lines) == 1:
        return f"{file}, line {lines[0]}: {reason}"
    more = len(lines) - SHOWN_LINES
    rest = f" and {more} more" if more > 0 else ""
    return f"{file}, lines {', '.join(map(str, lines[:SHOWN_LINES]))}{rest}: {reason}"


@dataclass(frozen=True)
class Splitter:
    """Chooses the split of a row.

    In a folder, the rows of `valid.jsonl` (or `validation.jsonl`) and `test.jsonl` belong to the
    split of that name. If there is a validation file, all rows of other files are trained on. If
    there is none, validation rows are drawn from the other files by hash, and so are test rows
    unless there is a `test.jsonl`. The name `train.jsonl`, and that of a single file outside such a
    folder, decide nothing.

    Attributes:
        validation_fraction: share of the documents that are drawn for validation.
        test_fraction: share of the documents that are drawn for test.
        by_name: whether the names of files count.
    """

    validation_fraction: float
    test_fraction: float
    by_name: bool = False

    def for_files(self, path: Path, files: Sequence[Path]) -> "Splitter":
        """Return the splitter for the files of `data.path`."""
        if path.is_file():
            return self
        named = {split_named_by(file) for file in files}
        if "validation" in named:
            return Splitter(0.0, 0.0, by_name=True)
        test_fraction = 0.0 if "test" in named else self.test_fraction
        return Splitter(self.validation_fraction, test_fraction, by_name=True)

    def rows_of(self, file: Path) -> Callable[[int, bytes, Record], Row]:
        """Return a function that makes rows of this file from line number, bytes and record."""
        named = split_named_by(file) if self.by_name else None
        held_out = named if named != "train" else None
        fractions = self.validation_fraction, self.test_fraction

        def row(line: int, raw: bytes, record: Record) -> Row:
            content_hash = record.content_hash()
            split = held_out or split_of(record.split_key(content_hash), *fractions)
            return Row(file, line, raw, record, content_hash, split)

        return row


@dataclass(frozen=True)
class JsonlRows:
    """The rows of `data.path`, which can be read as often as needed.

    Attributes:
        path: a JSONL file or a folder of them.
        splitter: chooses the split of a row.
        max_line_bytes: longest line of a file.
        with_metadata: whether to read what a row says about its source.
        chosen: the files to read; None: all.

    Raises:
        DataError: when there are no files.
    """

    path: Path
    splitter: Splitter
    max_line_bytes: int
    with_metadata: bool = False
    chosen: tuple[Path, ...] | None = None

    @property
    def name(self) -> str:
        """Name the data in a message."""
        return f"data.path={self.path}"

    def files(self) -> Sequence[Path]:
        """List the files to read."""
        return jsonl_files(self.path) if self.chosen is None else self.chosen

    def total_bytes(self) -> int:
        """Return the size of all files."""
        return sum(file.stat().st_size for file in self.files())

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
        for file in self.files():
            row_of = splitter.rows_of(file)
            for line, raw in iterate_lines(file, self.max_line_bytes, counts):
                if not raw.strip():
                    counts["blank_lines"] += 1
                    continue
                counts["rows"] += 1
                try:
                    record = parse_record(parse_line(raw, self.max_line_bytes), self.with_metadata)
                except RowError as error:
                    yield BadRow(file, line, raw, error)
                else:
                    yield row_of(line, raw, record)


@dataclass(frozen=True)
class WorldRows:
    """The rows of the built-in world, which are made again each time they are read."""

    name: str
    make: Callable[[], Iterable[Mapping[str, Any]]]
    splitter: Splitter

    def total_bytes(self) -> int:
        """Return 0: rows are made, and have few different words to train a tokenizer on."""
        return 0

    def divided(self, number: int) -> list["WorldRows"]:
        """Return all rows as one."""
        return [self]

    def read(self, counts: Counter[str]) -> Iterator[Row | BadRow]:
        """Yield the rows; none of them is bad."""
        row_of = self.splitter.rows_of(WORLD)
        for line, row in enumerate(self.make(), start=1):
            counts["rows"] += 1
            yield row_of(line, b"", parse_record(row))
