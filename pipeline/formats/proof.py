"""The proof of an export: another program reads it, and computes the same logits."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from pipeline.device import mx
from pipeline.errors import ExportError

Logits = Float32[mx.array, "rows seq_len vocab_size"]
FLOAT32_TOLERANCE = 2e-5
"""Allowed difference of float32 logits, divided by the larger of their standard deviation and their
change by the adapter. A different order of summation rounds differently, in proportion to both."""
SHARE_TOLERANCE = 0.1
"""Allowed distance of `Proof.adapter_share` from 1, where weights are rounded to 16 bits."""


@dataclass(frozen=True)
class Proof:
    """Differences between an exported model, the trained model and its base.

    Attributes:
        max_abs_logit_difference: between the trained model and the one read back.
        adapter_effect: greatest difference between the trained model and its base.
        adapter_share: how much of the change from base to trained the exported model has; 1 is
            all of it. It is the projection onto that change, on which rounding has little effect.
        logit_std: standard deviation of the trained model's logits.
    """

    max_abs_logit_difference: float
    adapter_effect: float
    adapter_share: float
    logit_std: float


def compare(base: Logits, tuned: Logits, found: Logits) -> Proof:
    """Compare the logits of three models on the same rows.

    Args:
        base: of the base model.
        tuned: of base and adapter.
        found: of the model as another program reads it back.
    """
    return Proof(
        max_abs_logit_difference=float(mx.abs(found - tuned).max()),
        adapter_effect=float(mx.abs(tuned - base).max()),
        adapter_share=projection(found - base, tuned - base),
        logit_std=standard_deviation(tuned),
    )


def projection(change: mx.array, wanted: mx.array) -> float:
    """Return the part of a wanted change that was made; 1 where the wanted change is 0."""
    length = inner_product(wanted, wanted)
    return inner_product(change, wanted) / length if length else 1.0


def inner_product(one: mx.array, other: mx.array) -> float:
    """Sum the products of two arrays in float64, row by row.

    MLX adds millions of numbers up one after the other in float32 on a CPU, and loses those that
    are small next to the sum so far.
    """
    rows = zip(one, other, strict=True)
    return sum(float(np.vdot(np.array(a, np.float64), np.array(b, np.float64))) for a, b in rows)


def standard_deviation(values: mx.array) -> float:
    """Compute the standard deviation of all numbers of an array, in float64."""
    mean = inner_product(values, mx.ones_like(values)) / values.size
    return math.sqrt(max(0.0, inner_product(values, values) / values.size - mean**2))


def require_agreement(name: str, proof: Proof, rounded: bool) -> None:
    """Refuse an export that differs from the trained model by more than rounding.

    Args:
        name: of the format.
        proof: what was measured.
        rounded: whether the format stores fewer bits than float32 has.

    Raises:
        ExportError: with the figures.
    """
    allowed = FLOAT32_TOLERANCE * max(proof.logit_std, proof.adapter_effect)
    agrees = proof.max_abs_logit_difference <= allowed
    if rounded:
        agrees = abs(proof.adapter_share - 1) <= SHARE_TOLERANCE
    if not agrees:
        rule = (
            f"{SHARE_TOLERANCE:.0%} more or less" if rounded else f"a difference of {allowed:.3g}"
        )
        raise ExportError(
            f"{name}: read back, its logits differ from the trained model's by "
            f"{proof.max_abs_logit_difference:.3g}. It has {proof.adapter_share:.1%} of what "
            f"training changed (by up to {proof.adapter_effect:.3g}). Allowed: {rule}.\n"
            "Nothing was written. Please report this with the model's config.json."
        )
