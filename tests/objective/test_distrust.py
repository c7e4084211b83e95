"""Provenance: laws of the weights, the published term, and what each mode does."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.order import BatchOrder, resample
from pipeline.objective.distrust import (
    DistrustSettings,
    distrust,
    document_weights,
    published_terms,
)

SETTINGS = DistrustSettings("weighted", alpha=2.7, min_weight=0.1, max_weight=1.9)


def weigh(authority, entropy, tokens=None, low=0.1, high=1.9):
    tokens = np.ones(len(authority)) if tokens is None else np.array(tokens)
    return document_weights(
        np.array(authority, dtype=np.float32),
        np.array(entropy, dtype=np.float32),
        tokens,
        min_weight=low,
        max_weight=high,
    )


def test_two_classes_get_the_clipped_weights():
    np.testing.assert_allclose(weigh([0.9, 0.1], [1.0, 6.0]), [0.1, 1.9], rtol=1e-6)


@given(
    st.lists(
        st.tuples(st.floats(0, 0.99), st.floats(0, 8), st.integers(1, 1000)),
        min_size=1,
        max_size=30,
    )
)
def test_the_token_weighted_mean_is_one(rows):
    authority, entropy, tokens = zip(*rows, strict=True)
    weights = weigh(authority, entropy, tokens)
    assert np.average(weights, weights=tokens) == pytest.approx(1, rel=1e-5)


@given(st.floats(0, 0.9), st.floats(0, 7), st.floats(0.01, 0.09), st.floats(0.1, 1))
def test_weights_fall_with_authority_and_rise_with_entropy(authority, entropy, more, bits):
    other = [0.5, 0.5], [3.0, 4.0]
    plain, distrusted, evidenced = (
        weigh([a, *other[0]], [h, *other[1]], low=0.0, high=1e9)[0]
        for a, h in (
            (authority, entropy),
            (authority + more, entropy),
            (authority, entropy + bits),
        )
    )
    assert distrusted < plain < evidenced


def test_rows_without_provenance_weigh_exactly_one():
    weights = weigh([math.nan, 0.9, 0.1], [math.nan, 1.0, 6.0])
    assert weights[0] == 1
    assert (weigh([math.nan], [math.nan]) == 1).all()


@pytest.mark.parametrize(
    ("authority", "entropy", "term"),
    [(0.08, 7.5, 148.5), (0.05, 7.0, 130.4), (0.9, 1.0, 4.58), (0.95, 0.5, 16.8), (0.99, 0, 57.3)],
)
def test_the_published_term_is_the_published_one(authority, entropy, term):
    found = published_terms(np.array([authority]), np.array([entropy]), alpha=2.7)
    np.testing.assert_allclose(found, [term], rtol=5e-3)


def test_the_published_term_is_not_monotone_in_authority():
    found = published_terms(np.array([0.5, 0.75, 0.95]), np.full(3, 1.386), alpha=2.7)
    assert found[0] > found[1] < found[2]


def test_a_document_without_provenance_has_no_term():
    assert published_terms(np.array([math.nan]), np.array([3.0]), alpha=2.7).tolist() == [0.0]


def changed(**values):
    return DistrustSettings(**{**vars(SETTINGS), **values})


def test_each_mode_does_one_thing(make_store):
    store = make_store()
    found = {
        mode: distrust(store, changed(mode=mode))
        for mode in ("none", "additive", "weighted", "sampling")
    }
    did = {
        mode: [
            name for name in ("weights", "probabilities", "terms") if vars(one)[name] is not None
        ]
        for mode, one in found.items()
    }
    assert did == {
        "none": [],
        "additive": ["terms"],
        "weighted": ["weights"],
        "sampling": ["probabilities"],
    }
    np.testing.assert_array_equal(found["weighted"].weights, found["sampling"].probabilities)
    assert all(one.metrics["provenance_share"] == 0.5 for one in found.values())
    assert found["additive"].metrics["distrust_term"] > 0


def test_alpha_scales_the_term_alone(make_store):
    store = make_store()
    low, high = (distrust(store, changed(mode="additive", alpha=alpha)) for alpha in (2.4, 3.0))
    np.testing.assert_allclose(high.terms, low.terms * (3.0 / 2.4), rtol=1e-12)
    same = [distrust(store, changed(alpha=alpha)).weights for alpha in (2.4, 3.0)]
    np.testing.assert_array_equal(*same)


@pytest.mark.parametrize(("key", "value"), [("min_weight", 0.5), ("max_weight", 1.2)])
def test_floor_and_clip_bound_the_weights(make_store, key, value):
    store = make_store()
    usual, bounded = distrust(store, SETTINGS).metrics, distrust(store, changed(**{key: value}))
    side = key.replace("weight", "").strip("_")
    before = usual[f"document_weight_{side}"]
    after = bounded.metrics[f"document_weight_{side}"]
    assert abs(after - 1) < abs(before - 1)


# Sampling


@given(
    st.lists(st.floats(0.1, 1.9), min_size=1, max_size=50),
    st.integers(0, 2**64 - 1),
)
def test_each_document_is_drawn_as_often_as_its_share_says(shares, key):
    drawn = resample(np.array(shares, dtype=np.float32), np.uint64(key))
    expected = np.array(shares) / np.sum(shares) * len(shares)
    counts = np.bincount(drawn, minlength=len(shares))
    assert len(drawn) == len(shares)
    assert (np.abs(counts - expected) < 1 + 1e-5).all()


def epochs(order, count):
    steps = [order.documents(step) for step in range(1, count * order.steps_in_epoch(0) + 1)]
    return np.bincount(np.concatenate(steps), minlength=len(order.lengths))


def test_over_many_epochs_the_mean_is_the_share():
    lengths = np.random.default_rng(0).integers(4, 60, 40)
    shares = np.random.default_rng(1).uniform(0.1, 1.9, 40).astype(np.float32)
    order = BatchOrder(lengths, seed=3, batch_size=8, probabilities=shares)
    counts = epochs(order, 1000) / 1000
    np.testing.assert_allclose(counts, shares / shares.mean(), atol=0.07)


def test_equal_shares_draw_each_document_once_in_an_epoch():
    lengths = np.arange(4, 44)
    order = BatchOrder(lengths, seed=3, batch_size=8, probabilities=np.ones(40, dtype=np.float32))
    assert epochs(order, 1).tolist() == [1] * 40


def test_a_step_draws_the_same_whenever_it_is_asked():
    lengths = np.arange(4, 44)
    shares = np.linspace(0.1, 1.9, 40).astype(np.float32)
    one, other = (BatchOrder(lengths, seed=3, batch_size=8, probabilities=shares) for _ in "ab")
    for step in (1, 2, 7):
        one.documents(step)
    for step in (12, 3):
        np.testing.assert_array_equal(one.documents(step), other.documents(step))


def test_other_seeds_draw_other_documents():
    lengths = np.arange(4, 44)
    shares = np.linspace(0.1, 1.9, 40).astype(np.float32)
    one, other = (BatchOrder(lengths, seed=s, batch_size=40, probabilities=shares) for s in (1, 2))
    assert sorted(one.documents(1)) != sorted(other.documents(1))
