"""The loss: laws first, then a table, then provenance weights."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.device import mx
from pipeline.objective import document_weights, loss_sums, token_losses


def test_uniform_logits_cost_ln_vocab_size():
    losses = token_losses(mx.zeros((2, 3, 64)), mx.zeros((2, 3), dtype=mx.int32))
    np.testing.assert_allclose(np.array(losses), math.log(64), rtol=1e-6)


def test_sums_by_hand():
    logits = mx.array([[[0.0, 0.0], [math.log(3.0), 0.0], [5.0, 0.0]]])
    targets = mx.array([[0, 1, 0]])
    mask, weights = mx.array([[1.0, 1.0, 0.0]]), mx.array([[1.0, 0.5, 9.0]])
    weighted, plain = loss_sums(logits, targets, mask, weights)
    assert float(plain) == pytest.approx(math.log(2) + math.log(4), rel=1e-6)
    assert float(weighted) == pytest.approx(math.log(2) + 0.5 * math.log(4), rel=1e-6)


def test_weights_of_one_are_the_plain_loss():
    logits = mx.random.normal((2, 5, 7), key=mx.random.key(1))
    targets = mx.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])
    ones = mx.ones((2, 5))
    weighted, plain = loss_sums(logits, targets, ones, ones)
    assert float(weighted) == float(plain)


def test_low_precision_logits_are_summed_in_float32():
    logits = mx.random.normal((1, 4, 512), key=mx.random.key(2)).astype(mx.bfloat16)
    targets = mx.array([[5, 6, 7, 8]])
    losses = token_losses(logits, targets)
    assert losses.dtype == mx.float32
    exact = np.array(logits.astype(mx.float32), dtype=np.float64)[0]
    wanted = np.log(np.exp(exact).sum(-1)) - exact[np.arange(4), [5, 6, 7, 8]]
    np.testing.assert_allclose(np.array(losses)[0], wanted, rtol=1e-5)


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
