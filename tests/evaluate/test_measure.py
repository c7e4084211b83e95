"""The parts that a validation is measured in."""

import pytest

from pipeline.evaluate.measure import items_at_once
from pipeline.objective.likelihood import ConflictItem


@pytest.mark.parametrize(
    ("longest", "most_tokens", "count"),
    [(50, 8192, 32), (128, 8192, 32), (256, 8192, 16), (99, 1, 1)],
)
def test_the_options_of_items_fill_a_batch(longest, most_tokens, count):
    item = ConflictItem("a", "a", "contest", 0, 0, [1] * (longest - 3), [[5], [6, 7, 8]])
    assert items_at_once([item] * 100, most_tokens) == count
