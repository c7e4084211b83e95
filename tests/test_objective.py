"""The loss: laws first, then a table."""

import math

import numpy as np
import pytest

from pipeline.device import mx
from pipeline.objective import loss_sums, token_losses


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


def test_label_smoothing_mixes_in_a_uniform_target():
    logits = mx.array([[[0.0, 0.0], [math.log(3.0), 0.0]]])
    targets, ones = mx.array([[0, 1]]), mx.ones((1, 2))
    smoothed, plain = loss_sums(logits, targets, ones, ones, label_smoothing=0.2)
    uniform = math.log(2) + (math.log(4 / 3) + math.log(4)) / 2
    exact = math.log(2) + math.log(4)
    assert float(smoothed) == pytest.approx(0.8 * exact + 0.2 * uniform, rel=1e-6)
    assert float(plain) == pytest.approx(exact, rel=1e-6)


def test_label_smoothing_leaves_masked_targets_out():
    logits = mx.random.normal((1, 4, 7), key=mx.random.key(3))
    targets, ones = mx.array([[1, 2, 3, 4]]), mx.ones((1, 4))
    mask = mx.array([[0.0, 1.0, 1.0, 0.0]])
    masked = loss_sums(logits, targets, mask, ones, label_smoothing=0.3)[0]
    alone = loss_sums(logits[:, 1:3], targets[:, 1:3], ones[:, 1:3], ones[:, 1:3], 0.3)[0]
    assert float(masked) == pytest.approx(float(alone), rel=1e-6)


def test_label_smoothing_agrees_with_torch(readers):
    torch = readers("torch")
    logits = np.random.default_rng(4).normal(size=(6, 11)).astype(np.float32)
    targets = np.arange(6)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum")
    theirs = float(loss(torch.tensor(logits), torch.tensor(targets)))
    ones = mx.ones((1, 6))
    ours = loss_sums(mx.array(logits)[None], mx.array(targets)[None], ones, ones, 0.1)[0]
    assert float(ours) == pytest.approx(theirs, rel=1e-6)
