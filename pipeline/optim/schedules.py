"""Learning rates over a run: a linear warm-up, then the fall of each schedule.

They are computed on the host, in float64: in float32, half a cosine loses its last part.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

Fall = Callable[[float], float]
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


def level(progress: float) -> float:
    """Stay at the peak."""
    del progress
    return 1.0


def line(progress: float) -> float:
    """Fall in a line."""
    return 1 - progress


def half_cosine(progress: float) -> float:
    """Fall as half a cosine (arXiv 1608.03983 eq. 5).

    Its usual form, (1 + cos(pi p)) / 2, loses digits where the cosine is near -1.
    """
    return math.cos(math.pi / 2 * progress) ** 2


FALLS: dict[str, Fall] = {
    "constant": level,
    "linear": line,
    "cosine": half_cosine,
    "wsd": half_cosine,
}
"""WSD, warm-up, stable, decay (arXiv 2404.06395 §4), is a cosine that begins late."""


def make_schedule(settings: RateSettings, num_steps: int) -> Callable[[int], float]:
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

    def schedule(updates: int) -> float:
        step = updates + 1
        if step < warmup_steps:
            return peak * step / warmup_steps
        progress = min(max(step - last_at_peak, 0) / decay_steps, 1.0)
        return floor + (peak - floor) * fall(progress)

    return schedule
