"""A tokenizer, and preparation of rows with it."""

import dataclasses
import shutil

import pytest

from pipeline.data.preparation.prepare import prepare
from pipeline.data.tokenize.tokenizer import train_tokenizer
from tests.support.prepared import SETTINGS, sentences, write_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a trained tokenizer, so that rows are read once."""
    folder = tmp_path_factory.mktemp("model")
    train_tokenizer(iter(sentences(200)), 300, folder)
    return folder


@pytest.fixture
def run(tmp_path, model):
    """Prepare rows, or a path; gives the folder and the metrics."""

    def prepare_rows(rows, name="prepared", **changes):
        path = rows
        if isinstance(rows, list):
            path = write_rows(tmp_path / "rows.jsonl", rows)
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        changes = {"tokenizer_source": model, "path": path, **changes}
        metrics, _ = prepare(dataclasses.replace(SETTINGS, **changes), folder)
        return folder, metrics

    return prepare_rows
