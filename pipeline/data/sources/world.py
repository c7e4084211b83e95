"""Rows of the built-in world, which are made and not read."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.data.rows.records import parse_record
from pipeline.data.sources.source import BadRow, Row, RowSource, Splitter


@dataclass(frozen=True)
class WorldRows(RowSource):
    """The rows of the built-in world, which are made again each time they are read."""

    name: str
    make: Callable[[], Iterable[Mapping[str, Any]]]
    splitter: Splitter

    def read(self, counts: Counter[str]) -> Iterator[Row | BadRow]:
        """Yield the rows; none of them is bad."""
        row_of = self.splitter.rows_of(Path("conflicts"))
        for line, row in enumerate(self.make(), start=1):
            counts["rows"] += 1
            yield row_of(line, b"", partial(parse_record, row))
