"""What training minimises: the cross-entropy of each target, and its slope by the logits."""

from dataclasses import dataclass

from jaxtyping import Float, Int

from pipeline.device import mx
from pipeline.sums import mean_along, sum_along


def token_losses(
    logits: Float[mx.array, "rows vocab_size"],
    targets: Int[mx.array, " rows"],
) -> Float[mx.array, " rows"]:
    """Compute the cross-entropy of every target in nats, in float32 whatever the logits are."""
    logits = logits.astype(mx.float32)
    most, _exponentials, sums = exponentials_of(logits)
    return losses_of(logits, targets[:, None], most, sums)


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

    An exponential costs more than all else here, so each is computed once. The probabilities are
    read by nothing but what puts the slopes of targets into them, so that this copies nothing.

    Args:
        logits: scores before the softmax.
        targets: token ids.
        label_smoothing: share of each target that is spread over the vocabulary; losses are mixed
            with those of a uniform target (arXiv 1512.00567 §7).
    """
    logits, places = logits.astype(mx.float32), targets[:, None]
    most, exponentials, sums = exponentials_of(logits)
    plain = losses_of(logits, places, most, sums)
    probabilities = exponentials / sums
    of_target = (mx.exp(-plain) - (1 - label_smoothing))[:, None]
    slope = mx.put_along_axis(probabilities, places, of_target, axis=-1)
    if not label_smoothing:
        return Losses(plain, plain, slope)
    below = most.squeeze(-1) - mean_along(logits, -1)
    uniform = below + mx.log(sums).squeeze(-1)
    minimised = (1 - label_smoothing) * plain + label_smoothing * uniform
    return Losses(plain, minimised, slope - label_smoothing / logits.shape[-1])


def exponentials_of(
    logits: Float[mx.array, "rows vocab_size"],
) -> tuple[
    Float[mx.array, "rows 1"], Float[mx.array, "rows vocab_size"], Float[mx.array, "rows 1"]
]:
    """Return the largest logit of each row, the exponentials of logits less it, and their sums."""
    most = mx.max(logits, axis=-1, keepdims=True)
    exponentials = mx.exp(logits - most)
    return most, exponentials, sum_along(exponentials, -1)[:, None]


def losses_of(
    logits: Float[mx.array, "rows vocab_size"],
    places: Int[mx.array, "rows 1"],
    most: Float[mx.array, "rows 1"],
    sums: Float[mx.array, "rows 1"],
) -> Float[mx.array, " rows"]:
    """Compute losses in nats from what `exponentials_of` returns."""
    below = most - mx.take_along_axis(logits, places, axis=-1)
    return (below + mx.log(sums)).squeeze(-1)
