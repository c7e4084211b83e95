"""What an export must show: that another program reads back the model that was trained."""

from dataclasses import dataclass

from jaxtyping import Int

from pipeline.device import mx, nn
from pipeline.errors import ExportError
from pipeline.model.forward import forward

FLOAT32_TOLERANCE = 2e-5
"""Allowed difference of float32 logits, as a share of their standard deviation."""
LEAST_SHARE_OF_ADAPTER = 0.9
"""Where weights are rounded to 16 bits: share of the adapter's effect that must survive."""


@dataclass(frozen=True)
class Proof:
    """How far an exported model is from the trained one, beside how far that is from its base.

    Attributes:
        max_abs_logit_difference: between the trained model and the one read back.
        adapter_effect: greatest difference between the trained model and its base.
        logit_std: standard deviation of the trained model's logits.
    """

    max_abs_logit_difference: float
    adapter_effect: float
    logit_std: float


def compare(
    base: mx.array, tuned: mx.array, exported: nn.Module, inputs: Int[mx.array, "rows seq_len"]
) -> Proof:
    """Compare logits, all in float32, on the same rows.

    Args:
        base: logits of the base model.
        tuned: logits of base and adapter.
        exported: the model as another program read it back.
        inputs: the rows the logits are of.
    """
    found = forward(exported, inputs).astype(mx.float32)
    return Proof(
        max_abs_logit_difference=float(mx.abs(found - tuned).max()),
        adapter_effect=float(mx.abs(tuned - base).max()),
        logit_std=float(mx.std(tuned)),
    )


def require_agreement(name: str, proof: Proof, rounded: bool) -> None:
    """Fail the export when it is not the trained model.

    Args:
        name: of the format.
        proof: what was measured.
        rounded: whether the format stores fewer bits than float32.

    Raises:
        ExportError: with the figures.
    """
    allowed = FLOAT32_TOLERANCE * proof.logit_std
    if rounded:
        allowed = (1 - LEAST_SHARE_OF_ADAPTER) * proof.adapter_effect
    if not proof.max_abs_logit_difference <= allowed:
        raise ExportError(
            f"{name}: read back, its logits differ from the trained model's by "
            f"{proof.max_abs_logit_difference:.3g}; {allowed:.3g} is allowed "
            f"(the adapter's own effect is {proof.adapter_effect:.3g}).\n"
            "Nothing was written. Please report this with the model's config.json."
        )
