"""Scores with their reasons, as a person reads them."""

import json

import pytest

from pipeline.data.provenance.explain import explain
from pipeline.data.rows.formats import RowReader
from pipeline.errors import ConfigError, DataError
from tests.data.provenance.test_score import PLAIN, RECORD
from tests.support.provenance import tables

READER = RowReader(with_metadata=True)


def test_an_explanation_names_every_part():
    lines = "\n".join(explain(tables(), f"{RECORD} Experts agree; copyright 1950.", 999, READER))
    for part in ("first_hand", "I saw", "12 kg", "1950 (copyright 1950)", "experts agree"):
        assert part.lower() in lines.lower()
    assert "pieces of evidence" in lines
    assert "bits" in lines


def test_a_file_is_explained_row_by_row(tmp_path):
    rows = [
        {"text": RECORD, "authority_weight": 0.25},
        {"text": PLAIN, "source_type": "zine"},
        {"text": "weighed " * 9},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n\n".join(map(json.dumps, rows)))
    lines = list(explain(tables(), str(file), 999, READER))
    assert [line for line in lines if line.startswith("rows.jsonl, line ")] == [
        f"rows.jsonl, line {number}: {text}"
        for number, text in [(1, f"{RECORD[:59]}…"), (3, PLAIN), (5, f"{'weighed ' * 7}wei…")]
    ]
    text = "\n".join(lines)
    assert "the row says 0.25, which counts" in text
    assert "source_type 'zine' is in no table; the text alone was scored" in text
    assert "weighed, weighed, weighed, and 6 more" in text


def test_what_cannot_be_explained_is_told(tmp_path):
    with pytest.raises(DataError, match=r"--explain a/b\.jsonl: there is no such file"):
        list(explain(tables(), "a/b.jsonl", 99, READER))
    (tmp_path / "x.jsonl").write_text('{"text": "a", "year": "old"}\n')
    with pytest.raises(DataError, match=r"x\.jsonl, line 1: year is a string \('old'\)"):
        list(explain(tables(), str(tmp_path / "x.jsonl"), 99, READER))


def test_without_tables_there_is_nothing_to_explain_with():
    with pytest.raises(
        ConfigError, match=r"--explain a: .*no tables to score with.\nLeave out data"
    ):
        list(explain(None, "a", 99, READER))
