"""The optimizer and its schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.device import mx, optimizers


@dataclass(frozen=True)
class OptimSettings:
    """What the `optim` section says."""

    learning_rate: float
    weight_decay: float
    warmup_fraction: float
    final_fraction: float = 0.0


def warmup_cosine(settings: OptimSettings, num_steps: int) -> Callable[[mx.array], mx.array]:
    """Rise in a line, then fall as half a cosine (arXiv 1608.03983 eq. 5), to a floor.

    The first update uses peak / warmup_steps, never zero; update `warmup_steps` has the peak. The
    floor, `final_fraction` of the peak, would be the rate of the update after the last, so that
    none is wasted on a rate of zero; beyond the end it stays there.

    Args:
        settings: peak, and the shares of the run that are warmup and floor.
        num_steps: updates of the whole run.

    Returns:
        The learning rate as a function of how many updates have been made before.
    """
    peak = settings.learning_rate
    floor = peak * settings.final_fraction
    warmup_steps = min(max(1, round(settings.warmup_fraction * num_steps)), num_steps)
    decay_steps = num_steps - warmup_steps + 1

    def schedule(updates: mx.array) -> mx.array:
        step = updates.astype(mx.float32) + 1
        progress = mx.clip((step - warmup_steps) / decay_steps, 0, 1)
        falling = floor + (peak - floor) * 0.5 * (1 + mx.cos(math.pi * progress))
        return mx.where(step < warmup_steps, peak * step / warmup_steps, falling)

    return schedule


def make_optimizer(settings: OptimSettings, num_steps: int) -> optimizers.AdamW:
    """Make AdamW (arXiv 1711.05101) with the bias correction of Adam (arXiv 1412.6980 alg. 1)."""
    return optimizers.AdamW(
        learning_rate=warmup_cosine(settings, num_steps),
        weight_decay=settings.weight_decay,
        bias_correction=True,
    )
