"""How rows are read from each source."""

import dataclasses

import pytest

from pipeline.data.sources.source import Splitter
from pipeline.data.sources.table import READERS
from tests.support.prepared import SETTINGS


@pytest.mark.parametrize("source", READERS)
def test_a_reader_names_what_it_reads_and_can_be_divided(source, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    settings = dataclasses.replace(SETTINGS, source=source, path=tmp_path)
    rows = READERS[source](settings, Splitter(0.0, 0.0))
    assert rows.name
    assert rows.divided(1)


def test_the_built_in_world_has_its_number_in_its_name():
    rows = READERS["conflicts"](SETTINGS, Splitter(0.0, 0.0))
    assert rows.name == "data.conflicts.num_documents=80"
