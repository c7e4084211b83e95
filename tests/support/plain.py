"""The loss as it stands in books, over all logits at once: what the loss by chunks must give."""

from jaxtyping import Float, Int

from pipeline.device import mx, nn


def token_losses(
    logits: Float[mx.array, "*rows vocab_size"],
    targets: Int[mx.array, "*rows"],
) -> Float[mx.array, "*rows"]:
    """Give the cross-entropy of every target in nats, in float32 whatever the logits are."""
    return nn.losses.cross_entropy(logits.astype(mx.float32), targets, reduction="none")


def smoothed(
    losses: Float[mx.array, "*rows"],
    logits: Float[mx.array, "*rows vocab_size"],
    label_smoothing: float,
) -> Float[mx.array, "*rows"]:
    """Mix the losses of the targets with those of a uniform target (arXiv 1512.00567 §7)."""
    if not label_smoothing:
        return losses
    logits = logits.astype(mx.float32)
    uniform = mx.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
    return (1 - label_smoothing) * losses + label_smoothing * uniform


def loss_sums(
    logits: Float[mx.array, "*rows vocab_size"],
    targets: Int[mx.array, "*rows"],
    loss_mask: Float[mx.array, "*rows"],
    weights: Float[mx.array, "*rows"],
    label_smoothing: float = 0.0,
) -> tuple[Float[mx.array, ""], Float[mx.array, ""]]:
    """Sum the cross-entropy over the targets that count, as it is minimised and as it is reported.

    Sums and the count of targets are kept apart, so that unequal batches can be added before
    dividing: a mean of means would favour short answers.

    Args:
        logits: scores before the softmax.
        targets: token ids; `targets[:, t]` is the token after `inputs[:, t]`.
        loss_mask: 1 where the target counts; 0 on the prompt and on padding.
        weights: how much each target counts: the weight of its document times its own.
        label_smoothing: share of each target that is spread over the vocabulary.

    Returns:
        The weighted and smoothed sum, which is minimised, and the plain sum, which is reported;
        both in nats.
    """
    losses = token_losses(logits, targets)
    minimised = smoothed(losses, logits, label_smoothing) * loss_mask * weights
    return minimised.sum(), (losses * loss_mask).sum()
