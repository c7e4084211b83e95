"""The learning rate that stands for `optim.learning_rate=auto`.

docs/optimizers.md says where the numbers come from.
"""

import math

AUTO = "auto"
ADAPTERS = ("lora", "dora")
"""Values of `train.mode` that train adapters; all others train weights of the base."""
RATES = (
    (10**7, 2e-3, 2e-3),
    (10**9, 5e-4, 5e-5),
    (2 * 10**10, 2e-4, 2e-5),
    (math.inf, 1e-4, 1e-5),
)
"""By the most parameters of the base: the rate of AdamW for adapters, and for weights."""
FACTORS = {"adamw": 1.0, "adam": 1.0, "muon": 1.0, "adafactor": 1.0, "lion": 0.25, "sgd": 50.0}
"""The rate of each optimizer, in rates of AdamW."""
MUCH = 10
"""A rate so many times the automatic one is warned about."""


def automatic_rate(mode: str, optimizer: str, num_parameters: int) -> float:
    """Return the peak learning rate for a model of this size.

    Args:
        mode: `train.mode`.
        optimizer: `optim.name`.
        num_parameters: of the base; a quantised weight counts as what it stands for.
    """
    rates = next((adapter, weight) for most, adapter, weight in RATES if num_parameters <= most)
    return FACTORS[optimizer] * rates[mode not in ADAPTERS]


def peak_rate(asked: int | float | str, automatic: float) -> float:
    """Return the rate that is used: the one asked for, or the automatic one."""
    return automatic if isinstance(asked, str) else float(asked)


def rate_note(asked: int | float | str, automatic: float) -> str:
    """Word what a person should know of the rate before the first step; empty where nothing."""
    if isinstance(asked, str):
        return f"the learning rate is {automatic:g} (optim.learning_rate={asked})"
    if asked < MUCH * automatic:
        return ""
    return (
        f"optim.learning_rate={asked:g} is {asked / automatic:.0f} times as much as what is usual "
        f"for this model, optimizer and train.mode.\nSet optim.learning_rate={AUTO}, which is "
        f"{automatic:g}, unless the loss shows that it is right."
    )
