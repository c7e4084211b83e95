"""Where rows come from: `data.source` by name."""

from functools import partial

from pipeline.data.settings import PrepareSettings
from pipeline.data.sources.conflicts import training_rows
from pipeline.data.sources.huggingface import DatasetRows
from pipeline.data.sources.ingest import JsonlRows, Splitter, WorldRows
from pipeline.data.sources.stdlib import StdlibRows

Source = WorldRows | StdlibRows | DatasetRows | JsonlRows
"""Rows that can be read as often as needed: `name` for messages, `total_bytes()`, `read()`."""


def source_of(settings: PrepareSettings, rules: Splitter) -> Source:
    """Choose where rows come from."""
    path = settings.path
    if settings.source == "conflicts":
        name = f"data.conflicts.num_documents={settings.num_documents}"
        make = partial(training_rows, settings.seed, settings.num_documents)
        return WorldRows(name, make, rules)
    assert path is not None, "checked with the parameters"
    scored = settings.provenance is not None
    if settings.source == "stdlib":
        return StdlibRows(path, rules)
    if settings.source == "huggingface":
        name = f"data.huggingface.name={path}"
        return DatasetRows(name, path, settings.subset, settings.split, rules, scored)
    return JsonlRows(path, rules, settings.max_line_bytes, with_metadata=scored)
