"""Joins parts that were written apart: the result is that of reading them one after the other."""

import dataclasses

import pytest

from pipeline.data import store
from pipeline.data.preparation.join import joined
from pipeline.data.preparation.part import Part
from pipeline.data.sources.jsonl import JsonlRows
from pipeline.data.sources.source import QUARANTINE, BadRows, Splitter
from pipeline.errors import DataError, ModelError
from tests.support.prepared import SETTINGS, contents, sentences, texts, write_rows

PLAIN = texts(*sentences(40))
WEIGHTED = [{**row, "weight": 0.5} for row in texts(*sentences(40, seed=1))]
BAD = [{"no": 1}] * 3


@pytest.fixture
def parts(tmp_path, model):
    """Write parts of one file each; gives all of them with their results, and the whole."""

    def write(*files, **changes):
        settings = dataclasses.replace(SETTINGS, **changes)
        folder = tmp_path / "rows"
        for number, rows in enumerate(files):
            write_rows(folder / f"{number}.jsonl", rows)
        source = JsonlRows("rows", folder, Splitter(0.3, 0.2), 4096)
        results = []
        for number, file in enumerate(source.files()):
            chosen = dataclasses.replace(source, chosen=(file,))
            part = Part(settings, chosen, model, 300, tmp_path / f"part{number}")
            part.folder.mkdir()
            bad = BadRows(settings.max_bad_rows, part.folder / QUARANTINE, whole_paths=True)
            results.append((part, part.write(bad, lambda rows: None)))
        whole = Part(settings, source, model, 300, tmp_path / "whole")
        whole.folder.mkdir()
        return results, whole

    return write


@pytest.mark.parametrize(
    "files",
    [
        (PLAIN, PLAIN[:9]),
        (PLAIN, WEIGHTED, PLAIN[:5]),
        (WEIGHTED, PLAIN),
        (BAD, PLAIN, [], WEIGHTED + BAD),
    ],
)
def test_the_same_files_and_counts_as_of_all_rows_at_once(parts, tmp_path, monkeypatch, files):
    monkeypatch.setattr(store, "BATCH_TOKENS", 64)
    results, whole = parts(*files, max_bad_rows=6)
    found = joined(results, whole)
    once = dataclasses.replace(whole, folder=tmp_path / "once")
    once.folder.mkdir()
    expected = once.write(BadRows(6, once.folder / QUARANTINE), lambda rows: None)
    assert contents(whole.folder) == contents(once.folder)
    assert found == expected
    assert not any(part.folder.exists() for part, _ in results)


def test_bad_rows_of_all_parts_count_together(parts):
    results, whole = parts(BAD, PLAIN, BAD, max_bad_rows=5)
    with pytest.raises(
        DataError, match=r"6 bad rows so far(?s:.*)0\.jsonl(?s:.*)2\.jsonl, lines 1"
    ):
        joined(results, whole)


def test_the_error_of_a_part_is_raised(parts):
    results, whole = parts(PLAIN, PLAIN)
    (first, written), (second, _) = results
    with pytest.raises(ModelError, match="no such tokenizer"):
        joined([(first, written), (second, ModelError("no such tokenizer"))], whole)


def test_too_many_bad_rows_before_an_error_are_raised_first(parts):
    results, whole = parts(BAD, max_bad_rows=9)
    whole = dataclasses.replace(whole, settings=dataclasses.replace(SETTINGS, max_bad_rows=2))
    (part, _) = results[0]
    with pytest.raises(DataError, match="3 bad rows so far"):
        joined([(part, ModelError("later"))], whole)
