"""The proof of an export: another program reads back the model that was trained."""

import numpy as np
import pytest

from pipeline.errors import ExportError
from pipeline.formats import proof as module
from pipeline.formats.proof import Proof, compare, require_agreement
from pipeline.model.network.forward import forward
from tests.support.exports import TOKENS


def random_logits(seed):
    return np.random.default_rng(seed).normal(size=(2, 5, 100)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_a_proof_compares_with_what_it_is_given(tiny_model, monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    tuned = np.array(forward(tiny_model, TOKENS))
    proof = compare(tuned - 3.0, tuned + 0.5, tuned)
    assert proof.max_abs_logit_difference == pytest.approx(0.5, abs=1e-6)
    assert proof.adapter_effect == pytest.approx(3.5, abs=1e-6)
    assert proof.adapter_share == pytest.approx(3 / 3.5, rel=1e-5)
    assert proof.logit_std == pytest.approx(tuned.std(), rel=1e-5)


def test_rounding_noise_is_not_a_lost_adapter():
    base, change, noise = map(random_logits, range(3))
    tuned = base + change
    assert compare(base, tuned, tuned + noise).adapter_share == pytest.approx(1, abs=0.1)
    assert compare(base, tuned, base + noise).adapter_share == pytest.approx(0, abs=0.1)
    assert compare(base, base, base + noise).adapter_share == 1


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_one_number_that_is_not_finite_is_seen(number):
    base, tuned = map(random_logits, range(2))
    found = tuned.copy()
    found[0, 0, 0] = number
    with np.errstate(invalid="ignore"):
        difference = compare(base, tuned, found).max_abs_logit_difference
    assert not difference < float("inf")


@pytest.mark.parametrize(
    ("difference", "effect", "share", "rounded", "agrees"),
    [
        (0.0, 0.5, 1.0, False, True),
        (0.9e-4, 0.5, 1.0, False, True),
        (1.1e-4, 0.5, 1.0, False, False),
        (1.1e-4, 2.0, 1.0, False, True),
        (0.3, 0.5, 0.91, True, True),
        (0.3, 0.5, 0.89, True, False),
        (0.3, 0.5, 1.11, True, False),
        (float("nan"), 0.5, float("nan"), True, False),
        (float("inf"), 0.5, 1.0, False, False),
    ],
)
def test_what_is_allowed(difference, effect, share, rounded, agrees):
    proof = Proof(difference, adapter_effect=effect, adapter_share=share, logit_std=1.0)
    if agrees:
        require_agreement("some", proof, rounded)
    else:
        with pytest.raises(ExportError, match="some: read back, its logits differ"):
            require_agreement("some", proof, rounded)


def test_figures_of_many_logits_are_those_of_float64():
    """Added up in float32, 17 million ones are 16,777,216."""
    values = np.random.default_rng(0).normal(3, 7, (4, 87, 49_152)).astype(np.float32)
    proof = compare(np.zeros_like(values), values, values / 2)
    assert proof.logit_std == pytest.approx(values.std(dtype=np.float64), rel=1e-9)
    assert proof.adapter_share == pytest.approx(0.5, rel=1e-9)
