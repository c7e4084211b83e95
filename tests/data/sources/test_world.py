"""Rows of the built-in world, which are made and not read."""

from collections import Counter

from pipeline.data.sources.source import Splitter
from pipeline.data.sources.world import WorldRows


def test_rows_are_made_each_time_and_have_no_files():
    made = []

    def make():
        made.append(1)
        return [{"text": "a"}, {"text": "b", "cluster": "c"}]

    source = WorldRows("the world", make, Splitter(0.0, 0.0))
    for times in (1, 2):
        counts = Counter()
        rows = list(source.read(counts))
        assert [row.record.content.text for row in rows] == ["a", "b"]
        assert [(row.file.name, row.line) for row in rows] == [("conflicts", 1), ("conflicts", 2)]
        assert (counts, len(made)) == ({"rows": 2}, times)
    assert source.total_bytes() == 0
    assert source.divided(4) == [source]
