"""Learning rates over a run: a linear warm-up, then the fall of each schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.device import mx

Fall = Callable[[mx.array], mx.array]
"""The share of the way from floor to peak, by the share of the decay that is over."""


@dataclass(frozen=True)
class RateSettings:
    """What the `optim` section says about the learning rate.

    Attributes:
        learning_rate: the peak.
        warmup_fraction: share of the run that rises to it.
        final_fraction: share of the peak that is the floor; None: the schedule never falls.
        decay_fraction: share of the run, at its end, in which `wsd` falls; None for the others.
    """

    schedule: str
    learning_rate: float
    warmup_fraction: float
    final_fraction: float | None
    decay_fraction: float | None


def level(progress: mx.array) -> mx.array:
    """Stay at the peak."""
    return mx.ones_like(progress)


def line(progress: mx.array) -> mx.array:
    """Fall in a line."""
    return 1 - progress


def half_cosine(progress: mx.array) -> mx.array:
    """Fall as half a cosine (arXiv 1608.03983 eq. 5)."""
    return 0.5 * (1 + mx.cos(math.pi * progress))


FALLS: dict[str, Fall] = {
    "constant": level,
    "linear": line,
    "cosine": half_cosine,
    "wsd": half_cosine,
}
"""WSD, warm-up, stable, decay (arXiv 2404.06395 §4), is a cosine that begins late."""


def make_schedule(settings: RateSettings, num_steps: int) -> Callable[[mx.array], mx.array]:
    """Make the learning rate of a run.

    The first update uses peak / warmup_steps, never zero; update `warmup_steps` has the peak. The
    rate reaches the floor one update after the last, and stays there.

    Args:
        settings: shape, peak, and shares of the run.
        num_steps: updates of the whole run.

    Returns:
        The learning rate as a function of how many updates have been made before.
    """
    peak, fall = settings.learning_rate, FALLS[settings.schedule]
    floor = peak * (settings.final_fraction or 0.0)
    warmup_steps = min(max(1, round(settings.warmup_fraction * num_steps)), num_steps)
    last_at_peak = warmup_steps
    if settings.decay_fraction is not None:
        last_at_peak = max(warmup_steps, num_steps - round(settings.decay_fraction * num_steps))
    decay_steps = num_steps - last_at_peak + 1

    def schedule(updates: mx.array) -> mx.array:
        step = updates.astype(mx.float32) + 1
        progress = mx.clip((step - last_at_peak) / decay_steps, 0, 1)
        falling = floor + (peak - floor) * fall(progress)
        return mx.where(step < warmup_steps, peak * step / warmup_steps, falling)

    return schedule
