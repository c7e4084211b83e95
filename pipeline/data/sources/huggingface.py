"""Rows from a folder with a data set, read one by one by the `datasets` library."""

import importlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.formats import PLAIN_ROWS, RowReader
from pipeline.data.rows.records import Record
from pipeline.data.sources.dataset_checks import check_card, check_lines, check_saved, is_saved
from pipeline.data.sources.source import BadRow, Row, RowSource, Splitter
from pipeline.errors import ConfigError, DataError
from pipeline.external.sources import dataset_files


@dataclass(frozen=True)
class DatasetRows(RowSource):
    """The rows of one split of a data set, from which train, validation and test are drawn by hash.

    Attributes:
        name: names the data in a message.
        folder: where its files are.
        subset: one of its configurations; None: the only one.
        split: the split of the data set that is read.
        splitter: chooses train, validation or test for a row.
        max_line_bytes: longest row, as JSON.
        reader: makes records of rows.
    """

    name: str
    folder: Path
    subset: str | None
    split: str
    splitter: Splitter
    max_line_bytes: int
    reader: RowReader = PLAIN_ROWS

    def files(self) -> list[Path]:
        """List the files of the data set."""
        return dataset_files(self.folder)

    def read(self, counts: Counter[str]) -> Iterator[Row | BadRow]:
        """Yield rows, good and bad ones, in their order, and count them.

        Raises:
            ConfigError: when `datasets` is not installed.
            DataError: when it cannot read the folder.
        """
        file = self.folder / self.split
        row_of, reader = self.splitter.rows_of(file), replace(self.reader, counts=counts)
        for line, row in enumerate(self.rows(), start=1):
            counts["rows"] += 1
            raw = json.dumps(row, ensure_ascii=False, default=str).encode(errors="replace")
            yield row_of(line, raw, partial(self.record_of, reader, row, len(raw)))

    def record_of(self, reader: RowReader, row: object, size: int) -> Record:
        """Make a record of a row.

        Raises:
            RowError: with what is wrong with it.
        """
        if size > self.max_line_bytes:
            raise RowError(f"the row is longer than data.max_line_bytes={self.max_line_bytes}")
        return reader.record_of(without_nulls(row))

    def rows(self) -> Iterator[Any]:
        """Yield the rows of the split as stored; nothing is shuffled, cached or run.

        Raises:
            ConfigError: when `datasets` is not installed.
            DataError: when it cannot read the folder.
        """
        datasets = import_datasets()
        check_card(self.name, self.folder)
        check_saved(self.name, self.folder)
        check_lines(self.name, self.files(), self.max_line_bytes)
        try:
            yield from self.opened(datasets)
        except Exception as error:  # the library passes on errors of its readers, of any type
            raise DataError(
                f"{self.name}: the data set cannot be read: {error}\n"
                "Look at data.huggingface.subset and data.huggingface.split."
            ) from error

    def opened(self, datasets: Any) -> Iterable[Any]:  # noqa: ANN401
        """Open the split, with `load_from_disk` where `save_to_disk` wrote the folder."""
        if is_saved(self.folder):
            saved = datasets.load_from_disk(str(self.folder))
            return saved[self.split] if isinstance(saved, dict) else saved
        return datasets.load_dataset(
            str(self.folder), name=self.subset, split=self.split, streaming=True
        )


def without_nulls(value: object) -> object:
    """Drop the keys of objects whose value is null.

    A table has one type for all rows of a column, so an object has the keys of those of all other
    rows, and null where it has no such key.
    """
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def import_datasets() -> Any:  # noqa: ANN401
    """Import the `datasets` library, set offline.

    Raises:
        ConfigError: when it is not installed.
    """
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise ConfigError(
            "data.source=huggingface needs the package `datasets`, which is not installed.\n"
            "Install it: `make huggingface`."
        ) from error
