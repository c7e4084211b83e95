"""Rows that carry no provenance, or half of it, are given what the scorer finds."""

from collections import Counter

from pipeline.data.provenance.complete import SUM_UNITS, scored_facts


def test_means_are_of_the_rows_that_got_a_number():
    counts = Counter(
        scored_rows=2,
        half_scored_rows=1,
        authority_weight_count=2,
        authority_weight_sum=SUM_UNITS,
        provenance_entropy_count=4,
        provenance_entropy_sum=6 * SUM_UNITS,
    )
    facts = scored_facts(counts)
    assert (facts["scored_rows"], facts["half_scored_rows"]) == (2, 1)
    assert facts["scored_mean_authority_weight"] == 0.5
    assert facts["scored_mean_provenance_entropy"] == 1.5


def test_without_scored_rows_there_is_no_mean():
    assert scored_facts(Counter())["scored_mean_authority_weight"] is None
