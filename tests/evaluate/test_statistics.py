"""Errors and comparisons: against simulation, and values by hand."""

import numpy as np
import pytest

from pipeline.evaluate.statistics import (
    Estimate,
    difference_metrics,
    mcnemar_p,
    paired_share_difference,
    ratio_estimate,
    smallest_detectable_difference,
)


def test_a_ratio_is_the_quotient_of_totals():
    estimate = ratio_estimate(np.array([2.0, 9.0]), np.array([1.0, 3.0]))
    assert estimate.value == 11 / 4
    assert estimate.n == 2


def test_one_cluster_has_a_value_and_no_interval():
    one = ratio_estimate(np.array([8.0]), np.array([4.0]))
    assert one == Estimate(2.0, None, None, None, 1)
    assert difference_metrics("difference", one) == {
        "difference": 2.0,
        "difference_low": None,
        "difference_high": None,
        "resolved": False,
        "smallest_detectable_difference": None,
    }


def test_clustered_errors_are_as_wide_as_the_truth():
    generator = np.random.default_rng(1)
    values, errors = [], []
    for _ in range(400):
        counts = generator.integers(20, 60, 50).astype(float)
        difficulty = generator.normal(3, 0.5, 50)  # shared by all tokens of a document
        sums = np.array(
            [generator.normal(level, 1, int(n)).sum() for level, n in zip(difficulty, counts)]  # noqa: B905
        )
        estimate = ratio_estimate(sums, counts)
        values.append(estimate.value)
        errors.append(estimate.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)


def test_the_same_model_twice_does_not_differ():
    choices = np.array([True, False, True, True])
    difference = paired_share_difference(choices, choices, np.arange(4))
    assert difference.value == 0
    assert difference.standard_error == 0
    assert mcnemar_p(choices, choices) == 1


def test_mirrored_items_count_as_one_cluster():
    generator = np.random.default_rng(2)
    once, later = generator.random(200) < 0.5, generator.random(200) < 0.7
    single = paired_share_difference(once, later, np.arange(200))
    doubled = paired_share_difference(
        np.repeat(once, 2), np.repeat(later, 2), np.repeat(np.arange(200), 2)
    )
    assert doubled.standard_error == pytest.approx(single.standard_error)


@pytest.mark.parametrize(("gained", "lost", "p"), [(5, 0, 0.0625), (10, 2, 0.03857), (3, 3, 1.0)])
def test_mcnemar_by_hand(gained, lost, p):
    before = np.array([False] * gained + [True] * lost)
    assert mcnemar_p(before, ~before) == pytest.approx(p, abs=1e-4)


def test_mcnemar_takes_many_items():
    before = np.array([False] * 1800 + [True] * 200)
    assert mcnemar_p(before, ~before) < 1e-100


def test_the_detectable_difference_is_2_8_errors():
    estimate = ratio_estimate(np.array([1.0, 2.0, 4.0]), np.ones(3))
    assert smallest_detectable_difference(estimate) == pytest.approx(
        2.8016 * estimate.standard_error, rel=1e-4
    )
