"""The figures by part, program and round, and the ratios computed from them."""

import pytest

from pipeline.benchmark.peers.results import (
    quotient,
    seconds_to_loss,
)


def test_ratios_of_medians_have_the_range_of_rounds():
    found = quotient({1: 2.0, 2: 4.0, 3: 9.0}, {1: 1.0, 2: 1.0, 3: 3.0})
    assert (found.value, found.low, found.high) == (4.0, 2.0, 4.0)
    found = quotient({1: 2.0}, {2: 4.0, 3: 1.0})
    assert (found.low, found.high) == (0.5, 2.0)


@pytest.mark.parametrize(
    ("curve", "target", "seconds"),
    [
        ([(0.0, 9.0), (10.0, 8.0)], 8.5, 5.0),
        ([(0.0, 9.0), (10.0, 8.0)], 8.0, 10.0),
        ([(4.0, 8.2), (8.0, 8.0)], 8.05, 7.0),
    ],
)
def test_seconds_to_a_loss(curve, target, seconds):
    assert seconds_to_loss(curve, target) == pytest.approx(seconds)
