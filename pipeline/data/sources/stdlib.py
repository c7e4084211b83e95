"""Rows from the source of the Python standard library: one row for each file."""

import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.data.rows.records import parse_record
from pipeline.data.sources.source import BadRow, Row, RowSource, Splitter
from pipeline.external.stdlib import stdlib_files


@dataclass(frozen=True)
class StdlibRows(RowSource):
    """The modules of the standard library, sorted by name.

    All modules of a package are one cluster, so that none of them is held out while others of the
    package are trained on.

    Attributes:
        root: folder of the standard library.
        splitter: chooses the split of a row.
        name: names the data in a message.
    """

    root: Path
    splitter: Splitter
    name: str = "data.source=stdlib"

    def files(self) -> list[Path]:
        """List the modules."""
        return stdlib_files(self.root)

    def read(self, counts: Counter[str]) -> Iterator[Row | BadRow]:
        """Yield a row for each file; empty files and those that do not decode are only counted."""
        for file in self.files():
            raw = file.read_bytes()
            text = decoded(raw)
            if text is None:
                counts["undecodable_files"] += 1
            elif not text.strip():
                counts["empty_files"] += 1
            else:
                counts["rows"] += 1
                package = file.relative_to(self.root).parts[0].removesuffix(".py")
                parse = partial(parse_record, {"text": text, "cluster": package})
                yield self.splitter.rows_of(file)(1, raw, parse)


def decoded(raw: bytes) -> str | None:
    """Decode source as Python does (PEP 263), line ends as line feeds; None where that fails."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        return io.TextIOWrapper(io.BytesIO(raw), encoding).read()
    except (SyntaxError, UnicodeDecodeError):
        return None
