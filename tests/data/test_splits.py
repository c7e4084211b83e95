"""A key's split is its own affair, and the shares come out as asked."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.splits import split_of

keys = st.binary(min_size=1, max_size=16)
fractions = st.floats(0, 0.45)


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.2), (0.02, 0.0), (0.0, 0.5)])
def test_shares(validation, test):
    num_keys = 20_000
    found = Counter(split_of(str(number).encode(), validation, test) for number in range(num_keys))
    wanted = {"train": 1 - validation - test, "validation": validation, "test": test}
    for split, share in wanted.items():
        deviation = (share * (1 - share) / num_keys) ** 0.5
        assert found[split] / num_keys == pytest.approx(share, abs=4 * deviation + 1e-12)


@settings(deadline=None)
@given(keys, fractions, fractions, fractions)
def test_a_new_fraction_moves_only_rows_of_its_own_split(key, validation, other, test):
    before, after = split_of(key, validation, test), split_of(key, other, test)
    assert (before == "test") == (after == "test")
    before, after = split_of(key, test, validation), split_of(key, test, other)
    assert (before == "validation") == (after == "validation")


@settings(deadline=None)
@given(keys, fractions, fractions)
def test_a_greater_share_keeps_what_it_had(key, validation, more):
    if split_of(key, validation, 0.0) == "validation":
        assert split_of(key, validation + more, 0.0) == "validation"


@settings(deadline=None)
@given(keys)
def test_nothing_is_held_out_unless_asked(key):
    assert split_of(key, 0.0, 0.0) == "train"


def test_assignments_stay_as_they_were_published():
    """A change here would move the rows of every user between splits."""
    splits = "".join(split_of(str(number).encode(), 0.3, 0.3)[1] for number in range(24))
    assert splits == "raerrrearraarrrareerrare"
