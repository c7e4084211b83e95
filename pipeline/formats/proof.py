"""The proof of an export: another program reads it, and computes the same logits."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ExportError
from pipeline.formats.logits import Logits

BLOCK = 1 << 20
"""Numbers that are compared at a time."""
FLOAT32_TOLERANCE = 1e-4
"""Allowed difference of float32 logits, divided by the larger of their standard deviation and their
change by the adapter. A different order of summation rounds differently, in proportion to both, and
more with each block: the largest of 50 million logits of SmolLM2 (30 blocks) differs by 2.1e-5."""
SHARE_TOLERANCE = 0.1
"""Allowed distance of `Proof.adapter_share` from 1, where weights are rounded to 16 bits."""


@dataclass(frozen=True)
class Proof:
    """Differences between an exported model, the trained model and its base.

    Attributes:
        max_abs_logit_difference: between the trained model and the one read back.
        adapter_effect: greatest difference between the trained model and its base.
        adapter_share: how much of the change from base to trained the exported model has; 1 is
            all of it, and stands where there is no change. It is the projection onto that change,
            on which rounding has little effect.
        logit_std: standard deviation of the trained model's logits.
    """

    max_abs_logit_difference: float
    adapter_effect: float
    adapter_share: float
    logit_std: float


def compare(base: Logits, tuned: Logits, found: Logits) -> Proof:
    """Compare the logits of three models on the same rows, with sums in float64.

    Args:
        base: of the base model.
        tuned: of base and adapter.
        found: of the model as another program reads it back.
    """
    largest, sums = np.zeros(2), np.zeros(4)
    for own, true, read in blocks(base, tuned, found):
        change = true - own
        largest = np.maximum(largest, [np.abs(read - true).max(), np.abs(change).max()])
        products = np.vdot(read - own, change), np.vdot(change, change), np.vdot(true, true)
        sums += [true.sum(), *products]
    total, made, wanted, squares = sums / tuned.size
    return Proof(
        max_abs_logit_difference=float(largest[0]),
        adapter_effect=float(largest[1]),
        adapter_share=float(made / wanted) if wanted else 1.0,
        logit_std=math.sqrt(max(0.0, squares - total**2)),
    )


def blocks(*arrays: Logits) -> Iterator[list[np.ndarray]]:
    """Cut arrays of one shape into blocks, in float64."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, BLOCK):
        yield [array[start : start + BLOCK].astype(np.float64) for array in flat]


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
