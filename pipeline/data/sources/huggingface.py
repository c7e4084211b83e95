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

from huggingface_hub import DatasetCard

from pipeline.data.rows.fields import strings_in
from pipeline.data.rows.formats import PLAIN_ROWS, RowReader
from pipeline.data.sources.source import BadRow, Row, RowSource, Splitter
from pipeline.errors import ConfigError, DataError
from pipeline.external.sources import dataset_files

CARD, SETTINGS = "README.md", ".huggingface.yaml"
SAVED = ("state.json", "dataset_dict.json")
"""What `save_to_disk` leaves in the folder of a data set, or of several splits."""


@dataclass(frozen=True)
class DatasetRows(RowSource):
    """The rows of one split of a data set, from which train, validation and test are drawn by hash.

    Attributes:
        name: names the data in a message.
        folder: where its files are.
        subset: one of its configurations; None: the only one.
        split: the split of the data set that is read.
        splitter: chooses train, validation or test for a row.
        reader: makes records of rows.
    """

    name: str
    folder: Path
    subset: str | None
    split: str
    splitter: Splitter
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
            yield row_of(line, raw, partial(reader.record_of, without_nulls(row)))

    def rows(self) -> Iterator[Any]:
        """Yield the rows of the split as stored; nothing is shuffled, cached or run.

        Raises:
            ConfigError: when `datasets` is not installed.
            DataError: when it cannot read the folder.
        """
        datasets = import_datasets()
        check_card(self.name, self.folder)
        try:
            yield from self.opened(datasets)
        except Exception as error:  # the library passes on errors of its readers, of any type
            raise DataError(
                f"{self.name}: the data set cannot be read: {error}\n"
                "Look at data.huggingface.subset and data.huggingface.split."
            ) from error

    def opened(self, datasets: Any) -> Iterable[Any]:  # noqa: ANN401
        """Open the split, with `load_from_disk` where `save_to_disk` wrote the folder."""
        if any((self.folder / name).exists() for name in SAVED):
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


def check_card(name: str, folder: Path) -> None:
    """Refuse a folder whose card names files that are not in it.

    The `datasets` library would read them, also from other machines, even when set offline.

    Raises:
        DataError: with the first of them.
    """
    if (folder / SETTINGS).exists():
        raise DataError(f"{name}: {SETTINGS} is not read here.\nWrite it into {CARD}.")
    if not (folder / CARD).is_file():
        return
    card = DatasetCard((folder / CARD).read_text(encoding="utf-8", errors="replace"))
    for path in strings_in(card.data.to_dict().get("configs")):
        if "://" in path or "::" in path or is_outside(path):
            raise DataError(
                f"{name}: {CARD} names {path}, which is not in the folder.\n"
                f"Put the files into the folder, and name them in {CARD} as they lie there."
            )


def is_outside(path: str) -> bool:
    """Whether a path leads out of the folder that it is relative to."""
    return Path(path).is_absolute() or ".." in Path(path).parts


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
            "Install it: `uv sync --inexact --extra huggingface`."
        ) from error
