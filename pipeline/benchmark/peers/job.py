"""What a program is told, and what it answers: two files."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files import read_json, write_json

TARGETS = ("self_attn.q_proj", "self_attn.v_proj")
"""Layers that get an adapter, by their names within a block."""
SCALE = 2.0
"""Factor of the low-rank product."""
BETAS, EPS, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 0.01
"""Of AdamW, with bias correction; the learning rate is constant and gradients are not clipped."""
WARMUP_STEPS = 1
"""The first step of a process compiles, and maps what it has not touched yet."""


@dataclass(frozen=True)
class Job:
    """What a program is to train.

    Attributes:
        model: folder of a whole model, tokenizer and manifest included.
        rows: folder whose `train.jsonl` is trained on.
        prepared: the same rows as token stores.
        output: gets `adapters.safetensors` and whatever else is written.
        num_steps: optimizer steps.
        batch_size: rows of a step.
        learning_rate: constant.
        rank: of LoRA, on q and v.
        seed: of data order and first adapters.
        mode: `lora`, or `head`, which only we have.
        num_layers: adapt this many last blocks; None: all.
        grad_checkpoint: recompute blocks in the backward pass.
        dtype: of torch; MLX takes float32 on a CPU, else what the weights are stored in.
        steps_per_snapshot: also keep adapters every so many steps; 0: at the end only.
        is_cached: keep what frozen blocks give, in `output`; else all blocks are run in every step.
    """

    model: str
    rows: str
    prepared: str
    output: str
    num_steps: int
    batch_size: int
    learning_rate: float
    rank: int
    seed: int
    mode: str = "lora"
    num_layers: int | None = None
    grad_checkpoint: bool = False
    dtype: str = "float32"
    steps_per_snapshot: int = 0
    is_cached: bool = False

    @classmethod
    def read(cls, path: Path) -> "Job":
        """Read what `run` wrote."""
        return cls(**read_json(path))


@dataclass(frozen=True)
class Outcome:
    """What a program measured of itself.

    Attributes:
        seconds: of each step; loading, validation and saving are not counted.
        num_targets: of each step; padding is not counted.
        peak_bytes: memory in use at most; None where it cannot tell.
        facts: what else it tells.
    """

    seconds: list[float]
    num_targets: list[int]
    peak_bytes: int | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def rate(self, first: int = WARMUP_STEPS) -> float:
        """Give targets per second from a step on, counted from 0."""
        return sum(self.num_targets[first:]) / sum(self.seconds[first:])


def answer(path: Path, outcome: Outcome) -> None:
    """Write the outcome, from within a program."""
    write_json(path, dataclasses.asdict(outcome))
