"""The reader of rows for each source of `pipeline.external.sources.SOURCES`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.data.settings import PrepareSettings
from pipeline.data.sources.conflicts import training_rows
from pipeline.data.sources.huggingface import DatasetRows
from pipeline.data.sources.ingest import JsonlRows, RowSource, Splitter, WorldRows
from pipeline.data.sources.stdlib import StdlibRows


def conflicts(settings: PrepareSettings, splitter: Splitter) -> WorldRows:
    """Make the documents of the built-in world."""
    name = f"data.conflicts.num_documents={settings.num_documents}"
    return WorldRows(name, partial(training_rows, settings.seed, settings.num_documents), splitter)


def huggingface(settings: PrepareSettings, splitter: Splitter) -> DatasetRows:
    """Read one split of a data set."""
    path, scored = root_of(settings), settings.provenance is not None
    name = f"data.huggingface.name={path}"
    return DatasetRows(name, path, settings.subset, settings.split, splitter, scored)


def jsonl(settings: PrepareSettings, splitter: Splitter) -> JsonlRows:
    """Read JSONL files."""
    scored = settings.provenance is not None
    return JsonlRows(root_of(settings), splitter, settings.max_line_bytes, with_metadata=scored)


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
