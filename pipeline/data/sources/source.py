"""What every source of rows has: rows with their split, bad rows, and what reads them."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Record
from pipeline.data.splits import Split, split_of
from pipeline.errors import MAX_LISTED_PROBLEMS, DataError, report_problems

QUARANTINE = "quarantine.jsonl"
SHOWN_LINES = 5
SPLIT_NAMES: dict[str, Split] = {
    "train.jsonl": "train",
    "valid.jsonl": "validation",
    "validation.jsonl": "validation",
    "test.jsonl": "test",
}
"""The split that the name of a file stands for, as in folders for mlx-lm."""


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


class RowSource(ABC):
    """Rows that can be read as often as needed.

    Attributes:
        name: names the data in a message.
    """

    name: str

    @abstractmethod
    def read(self, counts: Counter[str]) -> Iterator[Row | BadRow]:
        """Yield rows, good and bad ones, in their order; add what is counted to `counts`."""

    def files(self) -> Sequence[Path]:
        """List the files that are read; none where rows are made."""
        return ()

    def total_bytes(self) -> int:
        """Return the size of the files that are read."""
        return sum(file.stat().st_size for file in self.files())

    def divided(self, number: int) -> Sequence["RowSource"]:
        """Return at most `number` sources that yield these rows one after the other."""
        return [self]


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
        named = {SPLIT_NAMES.get(file.name) for file in files}
        if "validation" in named:
            return Splitter(0.0, 0.0, by_name=True)
        test_fraction = 0.0 if "test" in named else self.test_fraction
        return Splitter(self.validation_fraction, test_fraction, by_name=True)

    def rows_of(self, file: Path) -> Callable[[int, bytes, Callable[[], Record]], Row | BadRow]:
        """Return a function that makes rows of this file.

        It takes the number of the line, its bytes, and what makes the record of it or raises a
        `RowError`.
        """
        named = SPLIT_NAMES.get(file.name) if self.by_name else None
        held_out = named if named != "train" else None
        fractions = self.validation_fraction, self.test_fraction

        def row(line: int, raw: bytes, parse: Callable[[], Record]) -> Row | BadRow:
            try:
                record = parse()
            except RowError as error:
                return BadRow(file, line, raw, error)
            content_hash = record.content_hash()
            split = held_out or split_of(record.split_key(content_hash), *fractions)
            return Row(file, line, raw, record, content_hash, split)

        return row
