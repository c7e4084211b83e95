"""The keys that each optimizer has (`optim=NAME`)."""

from dataclasses import dataclass
from typing import Any

from pipeline.config.declare import LARGEST_BETA, key

SCHEDULES: dict[str, dict[str, bool]] = {
    "constant": {"final_fraction": False, "decay_fraction": False},
    "linear": {"final_fraction": True},
    "cosine": {"final_fraction": True},
    "wsd": {"final_fraction": True, "decay_fraction": True},
}
"""Of each schedule the keys that it needs (true), and those that it would not read (false)."""


@dataclass
class Optim:
    """What every optimizer has: a learning rate and its schedule."""

    name: str = key(
        "the update rule; choose it with optim=NAME, which sets its keys too",
        choices=("adamw", "adam", "sgd", "lion", "muon", "adafactor"),
    )
    learning_rate: int | float | str = key(
        "peak of the schedule; auto: by train.mode, optimizer and size of the base",
        minimum=0,
        maximum=1000,
        words=("auto",),
    )
    schedule: str = key(
        "what follows the warm-up; wsd stays at the peak before it falls",
        choices=tuple(SCHEDULES),
    )
    warmup_fraction: float = key("share of train.num_steps that warms up", minimum=0, maximum=1)
    decay_fraction: float | None = key(
        "share of train.num_steps, at the end, in which it falls; null: all after the warm-up",
        minimum=0,
        maximum=1,
    )
    final_fraction: float | None = key(
        "share of the peak that the last step still has; null: it never falls", minimum=0, maximum=1
    )
    float32_copy: bool = key(
        "keep a float32 copy of trained weights of 16 bits; false: 4 bytes less of each, and "
        "updates that are right in the mean only"
    )


@dataclass
class DecayingOptim(Optim):
    """An optimizer that also shrinks the weights."""

    weight_decay: float = key(
        "decay of the weights, apart from the gradient (sgd: added to it)", minimum=0, maximum=1000
    )
    no_decay: list[str] = key("tensors without weight decay, by pattern of their names")


def beta1() -> Any:  # noqa: ANN401
    """Declare how slowly a mean of gradients forgets."""
    return key("how slowly the mean of gradients forgets", minimum=0, maximum=LARGEST_BETA)


def beta2() -> Any:  # noqa: ANN401
    """Declare how slowly a mean of squared gradients forgets."""
    text = "how slowly the mean of squared gradients forgets (lion: of gradients)"
    return key(text, minimum=0, maximum=LARGEST_BETA)


def eps() -> Any:  # noqa: ANN401
    """Declare what is added to a divisor."""
    text = "keeps from dividing by zero: added to the root (adafactor: to the square)"
    return key(text, minimum=0, maximum=1)


def momentum() -> Any:  # noqa: ANN401
    """Declare how much of a velocity is kept."""
    return key("share of the velocity that is kept", minimum=0, maximum=LARGEST_BETA)


@dataclass
class Adam(Optim):
    """`optim=adam`."""

    beta1: float = beta1()
    beta2: float = beta2()
    eps: float = eps()


@dataclass
class AdamW(DecayingOptim):
    """`optim=adamw`."""

    beta1: float = beta1()
    beta2: float = beta2()
    eps: float = eps()


@dataclass
class Sgd(DecayingOptim):
    """`optim=sgd`."""

    momentum: float = momentum()


@dataclass
class Lion(DecayingOptim):
    """`optim=lion`."""

    beta1: float = beta1()
    beta2: float = beta2()


@dataclass
class Muon(AdamW):
    """`optim=muon`: AdamW's keys too, for what is no matrix of a block."""

    momentum: float = momentum()


@dataclass
class Adafactor(DecayingOptim):
    """`optim=adafactor`."""

    eps: float = eps()


OPTIMIZERS: dict[str, type[Optim]] = {
    "adamw": AdamW,
    "adam": Adam,
    "sgd": Sgd,
    "lion": Lion,
    "muon": Muon,
    "adafactor": Adafactor,
}
