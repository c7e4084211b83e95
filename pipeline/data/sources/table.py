"""The reader of rows for each source of `pipeline.external.sources.SOURCES`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.data.settings import PrepareSettings
from pipeline.data.sources.conflicts import training_rows
from pipeline.data.sources.huggingface import DatasetRows
from pipeline.data.sources.jsonl import JsonlRows
from pipeline.data.sources.source import RowSource, Splitter
from pipeline.data.sources.stdlib import StdlibRows
from pipeline.data.sources.world import WorldRows


def conflicts(settings: PrepareSettings, splitter: Splitter) -> WorldRows:
    """Make the documents of the built-in world."""
    name = f"data.conflicts.num_documents={settings.num_documents}"
    return WorldRows(name, partial(training_rows, settings.seed, settings.num_documents), splitter)


def huggingface(settings: PrepareSettings, splitter: Splitter) -> DatasetRows:
    """Read one split of a data set."""
    path = root_of(settings)
    name = f"data.huggingface.name={path}"
    limits = splitter, settings.max_line_bytes, settings.reader
    return DatasetRows(name, path, settings.subset, settings.split, *limits)


def jsonl(settings: PrepareSettings, splitter: Splitter) -> JsonlRows:
    """Read JSONL files."""
    path = root_of(settings)
    return JsonlRows(f"data.path={path}", path, splitter, settings.max_line_bytes, settings.reader)


def stdlib(settings: PrepareSettings, splitter: Splitter) -> StdlibRows:
    """Read the modules of the standard library."""
    return StdlibRows(root_of(settings), splitter)


def root_of(settings: PrepareSettings) -> Path:
    """Return the file or folder to read."""
    assert settings.path is not None, "checked with the parameters"
    return settings.path


READERS: dict[str, Callable[[PrepareSettings, Splitter], RowSource]] = {
    "conflicts": conflicts,
    "huggingface": huggingface,
    "jsonl": jsonl,
    "stdlib": stdlib,
}
