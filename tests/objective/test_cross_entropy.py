"""The loss and its slope: laws first, then a table."""

import math

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from pipeline.device import mx
from pipeline.objective.cross_entropy import losses_and_slopes, token_losses
from tests.support import plain

TARGETS = mx.array([5, 6, 7, 0])


def logits_of(vocab_size=64, scale=3.0, seed=1):
    return scale * mx.random.normal((4, vocab_size), key=mx.random.key(seed))


def test_shapes_are_checked_while_testing():
    with pytest.raises(TypeCheckError):
        token_losses(mx.zeros((3, 64)), mx.zeros(4, dtype=mx.int32))


def test_uniform_logits_cost_ln_vocab_size():
    losses = token_losses(mx.zeros((3, 64)), mx.zeros(3, dtype=mx.int32))
    np.testing.assert_allclose(np.array(losses), math.log(64), rtol=1e-6)


def test_losses_by_hand():
    logits = mx.array([[0.0, 0.0], [math.log(3.0), 0.0]])
    found = losses_and_slopes(logits, mx.array([0, 1]))
    np.testing.assert_allclose(np.array(found.plain), [math.log(2), math.log(4)], rtol=1e-6)
    np.testing.assert_allclose(np.array(found.slope), [[-0.5, 0.5], [0.75, -0.75]], rtol=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_losses_and_slopes_are_those_of_the_plain_form(label_smoothing):
    logits, ones = logits_of(), mx.ones(4)

    def total(logits):
        return plain.loss_sums(logits, TARGETS, ones, ones, label_smoothing)[0]

    found = losses_and_slopes(logits, TARGETS, label_smoothing)
    assert float(found.minimised.sum()) == pytest.approx(float(total(logits)), rel=1e-6)
    np.testing.assert_allclose(
        np.array(found.plain), np.array(plain.token_losses(logits, TARGETS)), rtol=1e-5
    )
    np.testing.assert_allclose(
        np.array(found.slope), np.array(mx.grad(total)(logits)), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("lift", [0.0, 1e3, -1e3])
def test_a_target_of_no_probability_costs_what_it_should(lift):
    logits = mx.zeros((1, 8)) + lift
    logits[0, 1] += 500.0  # exp(-500) is no float32
    found = losses_and_slopes(logits, mx.array([0]))
    assert float(found.plain[0]) == pytest.approx(500.0, rel=1e-6)
    np.testing.assert_allclose(np.array(found.slope)[0, :2], [-1.0, 1.0])


def test_low_precision_logits_are_summed_in_float32():
    logits = logits_of(512).astype(mx.bfloat16)
    exact = np.array(logits.astype(mx.float32), dtype=np.float64)
    wanted = np.log(np.exp(exact).sum(-1)) - exact[np.arange(4), np.array(TARGETS)]
    for losses in (token_losses(logits, TARGETS), losses_and_slopes(logits, TARGETS).plain):
        assert losses.dtype == mx.float32
        np.testing.assert_allclose(np.array(losses), wanted, rtol=1e-5)


@pytest.mark.parametrize("vocab_size", [49_152, 256_000])
def test_losses_of_a_large_vocabulary_are_those_of_float64(vocab_size):
    """A sum of exponentials one after the other makes them 1e-4 and 5e-4 nats too low."""
    logits = logits_of(vocab_size)
    exact, places = np.array(logits, dtype=np.float64), (np.arange(4), np.array(TARGETS))
    wanted = np.log(np.exp(exact).sum(-1))
    slopes = np.exp(exact - wanted[:, None]) - 0.1 / vocab_size
    slopes[places] -= 0.9
    found = losses_and_slopes(logits, TARGETS, label_smoothing=0.1)
    plainly, uniform = wanted - exact[places], wanted - exact.mean(-1)
    for losses in (token_losses(logits, TARGETS), found.plain):
        np.testing.assert_allclose(np.array(losses), plainly, rtol=1e-6)
    np.testing.assert_allclose(np.array(found.minimised), 0.9 * plainly + 0.1 * uniform, rtol=1e-6)
    np.testing.assert_allclose(np.array(found.slope), slopes, rtol=3e-6, atol=1e-9)


def test_label_smoothing_mixes_in_a_uniform_target():
    logits = mx.array([[0.0, 0.0], [math.log(3.0), 0.0]])
    found = losses_and_slopes(logits, mx.array([0, 1]), label_smoothing=0.2)
    uniform = math.log(2) + (math.log(4 / 3) + math.log(4)) / 2
    exact = math.log(2) + math.log(4)
    assert float(found.minimised.sum()) == pytest.approx(0.8 * exact + 0.2 * uniform, rel=1e-6)
    assert float(found.plain.sum()) == pytest.approx(exact, rel=1e-6)


def test_label_smoothing_agrees_with_torch(readers):
    torch = readers("torch")
    logits = np.random.default_rng(4).normal(size=(6, 11)).astype(np.float32)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum")
    theirs = float(loss(torch.tensor(logits), torch.arange(6)))
    ours = losses_and_slopes(mx.array(logits), mx.arange(6), 0.1).minimised.sum()
    assert float(ours) == pytest.approx(theirs, rel=1e-6)
