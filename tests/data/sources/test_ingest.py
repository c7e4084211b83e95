"""Rows from files or from the built-in world: read, checked, and given their split."""

from itertools import chain

from pipeline.data.sources.ingest import JsonlRows, Splitter


def test_files_are_divided_in_their_order_by_their_size(tmp_path):
    for name, size in (("a", 60), ("b", 1), ("c", 19), ("d", 20), ("e", 0)):
        (tmp_path / f"{name}.jsonl").write_text("x" * size)
    source = JsonlRows(tmp_path, Splitter(0.1, 0.1), 99)
    divided = {
        number: [[file.stem for file in part.files()] for part in source.divided(number)]
        for number in (1, 2, 3, 9)
    }
    assert divided[1] == [["a", "b", "c", "d", "e"]]
    assert divided[2] == [["a"], ["b", "c", "d", "e"]]
    for parts in divided.values():
        assert [*chain.from_iterable(parts)] == ["a", "b", "c", "d", "e"]
