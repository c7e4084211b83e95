"""One part of the rows, which is written to its own stores; all rows are one or more parts."""

import dataclasses

import numpy as np
import pytest

from pipeline.data.preparation.duplicates import ENTRY
from pipeline.data.preparation.part import HASHES, Part, add_pieces
from pipeline.data.rows.records import Record, Text
from pipeline.data.sources.jsonl import JsonlRows
from pipeline.data.sources.source import BadRows, Splitter
from pipeline.data.splits import SPLITS
from pipeline.data.store import TokenStore, TokenStoreWriter
from pipeline.data.tokenize.document import Encoded
from tests.support.prepared import SETTINGS, sentences, texts, write_rows
from tests.support.provenance import tables


@pytest.fixture
def part(tmp_path, model):
    """Make a part of a file with these rows."""

    def make(rows, **changes):
        file = write_rows(tmp_path / "rows.jsonl", rows)
        source = JsonlRows("rows", file, Splitter(0.3, 0.2), 4096)
        settings = dataclasses.replace(SETTINGS, **changes)
        return Part(settings, source, model, 300, tmp_path)

    return make


def test_stores_hashes_and_counts(part, tmp_path):
    progress = []
    written = part(texts(*sentences(50))).write(BadRows(0), progress.append)
    stores = {split: TokenStore(tmp_path / split) for split in SPLITS}
    entries = np.fromfile(tmp_path / HASHES, ENTRY)
    for index, split in enumerate(SPLITS):
        assert len(stores[split]) == (entries["split"] == index).sum() > 0
    assert len(np.unique(entries["low"])) == len(entries) == written.counts["rows"] == 50
    assert (progress, written.too_long) == ([50], [])


def test_what_cannot_be_used_is_counted_and_noted(part):
    rows = [*texts("the cat sat " * 90), {"no": 1}, *texts(*sentences(5))]
    bad = BadRows(1)
    written = part(rows, long_documents="refuse").write(bad, lambda rows: None)
    assert (bad.count, written.counts["bad_rows"]) == (1, 1)
    (noted,) = written.too_long
    assert "rows.jsonl, line 1: " in noted


def test_rows_without_provenance_are_scored_where_there_are_tables(part, tmp_path):
    rows = [{"text": sentence, "authority_weight": 0.5} for sentence in sentences(20)]
    written = part(rows, provenance=tables()).write(BadRows(0), lambda rows: None)
    assert written.counts["half_scored_rows"] == 20
    store = TokenStore(tmp_path / "train")
    assert (store.authority_weight == 0.5).all()
    assert not np.isnan(store.provenance_entropy).any()


def test_every_piece_carries_the_provenance_of_its_record(tmp_path):
    ids, mask = np.arange(3, dtype=np.int32), np.array([False, True, True])
    record = Record(Text("a"), authority_weight=0.25, provenance_entropy=None)
    with TokenStoreWriter(tmp_path, 300) as store:
        add_pieces(store, record, [Encoded(ids, mask), Encoded(ids[:2], mask[:2])])
    store = TokenStore(tmp_path)
    assert store.lengths.tolist() == [3, 2]
    assert store.authority_weight.tolist() == [0.25, 0.25]
    assert np.isnan(store.provenance_entropy).all()
