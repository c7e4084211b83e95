"""What training minimises: the cross-entropy of each target, and its slope by the logits."""

from dataclasses import dataclass

from jaxtyping import Float, Int

from pipeline.device import mx, nn


def token_losses(
    logits: Float[mx.array, "rows vocab_size"],
    targets: Int[mx.array, " rows"],
) -> Float[mx.array, " rows"]:
    """Compute the cross-entropy of every target in nats, in float32 whatever the logits are."""
    return nn.losses.cross_entropy(logits.astype(mx.float32), targets, reduction="none")


@dataclass(frozen=True)
class Losses:
    """The cross-entropy of some targets, in float32.

    Attributes:
        plain: as it is reported, in nats.
        minimised: as it is minimised: smoothed.
        slope: of what is minimised, by the logits.
    """

    plain: Float[mx.array, " rows"]
    minimised: Float[mx.array, " rows"]
    slope: Float[mx.array, "rows vocab_size"]


def losses_and_slopes(
    logits: Float[mx.array, "rows vocab_size"],
    targets: Int[mx.array, " rows"],
    label_smoothing: float = 0.0,
) -> Losses:
    """Compute losses of targets together with their slopes: softmax(logits) minus the target.

    An exponential costs more than all else here, so each is computed once: the largest probability
    is exp(0) over the sum of exponentials, from which the logarithm of that sum follows.

    Args:
        logits: scores before the softmax.
        targets: token ids.
        label_smoothing: share of each target that is spread over the vocabulary; losses are mixed
            with those of a uniform target (arXiv 1512.00567 §7).
    """
    logits, places = logits.astype(mx.float32), targets[:, None]
    probabilities = mx.softmax(logits, axis=-1)
    normaliser = mx.max(logits, axis=-1) - mx.log(mx.max(probabilities, axis=-1))
    plain = normaliser - mx.take_along_axis(logits, places, axis=-1).squeeze(-1)
    of_target = mx.take_along_axis(probabilities, places, axis=-1) - (1 - label_smoothing)
    slope = mx.put_along_axis(probabilities, places, of_target, axis=-1)
    if not label_smoothing:
        return Losses(plain, plain, slope)
    uniform = normaliser - logits.mean(axis=-1)
    minimised = (1 - label_smoothing) * plain + label_smoothing * uniform
    return Losses(plain, minimised, slope - label_smoothing / logits.shape[-1])
