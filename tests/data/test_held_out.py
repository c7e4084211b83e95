"""The first documents of a split, as many as are measured."""

import pytest

from pipeline.data.held_out import first_documents


@pytest.fixture
def store(make_store):
    return make_store("test", count=9, seed=1)


def tokens_of(store, count):
    return int(store.lengths[:count].sum())


def test_without_bounds_all_are_measured_and_nothing_is_said(store):
    chosen = first_documents(store, None, None, "a", "b")
    assert (chosen.count, chosen.share, chosen.note) == (9, 1.0, "")
    assert chosen.indices.tolist() == list(range(9))


@pytest.mark.parametrize("documents", [1, 4, 9, 50])
def test_documents_bound_their_number(store, documents):
    assert first_documents(store, documents, None).count == min(documents, 9)


@pytest.mark.parametrize("count", [3, 8, 9])
def test_tokens_bound_their_sum(store, count):
    most = tokens_of(store, count)
    assert first_documents(store, None, most).count == count
    assert first_documents(store, None, most - 1).count == count - 1
    assert first_documents(store, 2, most).count == 2


def test_two_are_measured_whatever_their_length(store):
    assert first_documents(store, None, 1).count == 2
    assert first_documents(store, 1, 1).count == 1


def test_a_share_is_said_with_the_keys_that_bound_it(store):
    chosen = first_documents(store, None, tokens_of(store, 3), "validate.tokens")
    assert chosen.share == 3 / 9
    assert chosen.note == "3 of 9 held-out documents are measured, 33% (validate.tokens)"
