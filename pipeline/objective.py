"""What training minimises: token-weighted cross-entropy, and weights from provenance."""

import numpy as np
from jaxtyping import Float, Int

from pipeline.device import mx, nn


def token_losses(
    logits: Float[mx.array, "rows seq_len vocab_size"],
    targets: Int[mx.array, "rows seq_len"],
) -> Float[mx.array, "rows seq_len"]:
    """Give the cross-entropy of every target in nats, in float32 whatever the logits are."""
    return nn.losses.cross_entropy(logits.astype(mx.float32), targets, reduction="none")


def loss_sums(
    logits: Float[mx.array, "rows seq_len vocab_size"],
    targets: Int[mx.array, "rows seq_len"],
    loss_mask: Float[mx.array, "rows seq_len"],
    weights: Float[mx.array, "rows seq_len"],
) -> tuple[Float[mx.array, ""], Float[mx.array, ""]]:
    """Sum the cross-entropy over the targets that count, with and without weights.

    Sums and the count of targets are kept apart, so that unequal batches can be added before
    dividing: a mean of means would favour short answers.

    Args:
        logits: scores before the softmax.
        targets: token ids; `targets[:, t]` is the token after `inputs[:, t]`.
        loss_mask: 1 where the target counts; 0 on the prompt and on padding.
        weights: the weight of the document each token is of.

    Returns:
        The weighted sum, which is minimised, and the plain sum, which is reported; both in nats.
    """
    losses = token_losses(logits, targets) * loss_mask
    return (losses * weights).sum(), losses.sum()


def document_weights(
    authority_weight: np.ndarray,
    provenance_entropy: np.ndarray,
    num_targets: np.ndarray,
    *,
    min_weight: float,
    max_weight: float,
) -> Float[np.ndarray, " documents"]:
    """Weigh documents by provenance: primary, well-evidenced sources count more.

    raw = (1 - authority_weight) · 2^provenance_entropy, that is the distrust of authority times
    the effective number of independent pieces of evidence (entropy in bits). It is divided by its
    token-weighted mean, clipped, and scaled so that the token-weighted mean is 1 again: weights
    move influence between documents and leave the size of a step alone.

    Args:
        authority_weight: in [0, 0.99] per document; NaN where a row carries no provenance.
        provenance_entropy: bits per document; NaN where a row carries no provenance.
        num_targets: targets per document.
        min_weight: least weight before the last scaling.
        max_weight: greatest weight before the last scaling.

    Returns:
        float32 weights; exactly 1 for a document without provenance.
    """
    weights = np.ones(len(authority_weight), dtype=np.float64)
    known = ~(np.isnan(authority_weight) | np.isnan(provenance_entropy))
    if not known.any():
        return weights.astype(np.float32)
    tokens = np.asarray(num_targets, dtype=np.float64)[known]
    distrust = 1 - np.asarray(authority_weight, dtype=np.float64)[known]
    raw = distrust * np.exp2(np.asarray(provenance_entropy, dtype=np.float64)[known])
    clipped = np.clip(raw / np.average(raw, weights=tokens), min_weight, max_weight)
    weights[known] = clipped / np.average(clipped, weights=tokens)
    return weights.astype(np.float32)
