"""What every source of rows has: rows with their split, bad rows, and what reads them."""

from pathlib import Path

import pytest

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Record, Text
from pipeline.data.sources.source import BadRow, Row, Splitter


def record():
    return Record(Text("a"))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("valid.jsonl", "validation"),
        ("validation.jsonl", "validation"),
        ("test.jsonl", "test"),
        ("tests.jsonl", "train"),
    ],
)
def test_the_name_of_a_file_decides_the_split(name, split):
    row = Splitter(0.0, 0.0, by_name=True).rows_of(Path(name))(7, b"x", record)
    content_hash = record().content_hash()
    assert row == Row(Path(name), 7, b"x", record(), content_hash, split)


def test_a_row_that_cannot_be_parsed_is_bad():
    def parse():
        raise error

    error = RowError("no")
    row = Splitter(0.0, 0.0).rows_of(Path("a"))(7, b"x", parse)
    assert row == BadRow(Path("a"), 7, b"x", error)
