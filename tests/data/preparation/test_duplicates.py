"""Counts duplicates and leaks among any number of documents in constant memory."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.preparation.duplicates import count_duplicates
from pipeline.data.splits import SPLITS


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from(SPLITS)), max_size=60))
def test_duplicates_are_counted_as_a_set_would(tmp_path_factory, entries):
    base = tmp_path_factory.mktemp("hashes")
    hashes = base / "hashes"
    written = [
        bytes([number % 3] * 8 + [number] * 8) + bytes([SPLITS.index(split)])
        for number, split in entries
    ]
    hashes.write_bytes(b"".join(written))
    found = count_duplicates(hashes, base)
    trained = {number for number, split in entries if split == "train"}
    leaked = [number for number, split in entries if split != "train" and number in trained]
    assert found == (len(entries) - len({number for number, _ in entries}), len(leaked))
    assert [*base.iterdir()] == [hashes]
