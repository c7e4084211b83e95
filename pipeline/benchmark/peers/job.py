"""The job that a program reads, the outcome that it writes, and settings that all share."""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files import read_json, write_json

TARGETS = ("self_attn.q_proj", "self_attn.v_proj")
"""Layers that get an adapter, by their names within a block."""
SCALE = 2.0
"""The low-rank product is multiplied with this."""
BETAS, EPS, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 0.01
"""For AdamW with bias correction. The learning rate is constant; gradients are not clipped."""
WARMUP_STEPS = 1
"""The first step of a process is not timed: it compiles kernels and reads weights from the disk."""


@dataclass(frozen=True)
class Job:
    """What a program trains.

    Attributes:
        model: folder of a whole model, tokenizer and manifest included.
        rows: folder whose `train.jsonl` is trained on.
        prepared: the same rows as token stores.
        output: folder for `adapters.safetensors` and other files.
        num_steps: optimizer steps.
        batch_size: rows of a step.
        learning_rate: constant.
        rank: of LoRA, on q and v.
        seed: of the data order and the initial adapters.
        mode: `lora`, or `head`, which only Tidewheel has.
        num_layers: how many of the last blocks get adapters; None: all.
        grad_checkpoint: recompute blocks in the backward pass.
        dtype: of torch; MLX uses float32 on a CPU, elsewhere the type of the stored weights.
        steps_per_snapshot: save adapters each time after so many steps; 0: only at the end.
        is_cached: store the outputs of frozen blocks in `output`, and do not run them again.
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


@dataclass(frozen=True)
class Outcome:
    """The figures that a program measured while it trained.

    Attributes:
        seconds: of each step; loading, validation and saving are not counted.
        num_targets: of each step; padding is not counted.
        peak_bytes: the most memory it held; 0 where it does not measure that.
        facts: figures that only this program has.
    """

    seconds: list[float]
    num_targets: list[int]
    peak_bytes: int = 0
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def rate(self, first: int = WARMUP_STEPS) -> float:
        """Return targets per second, without the first steps."""
        return sum(self.num_targets[first:]) / sum(self.seconds[first:])


def answer(train: Callable[[Job], Outcome]) -> None:
    """Read the job from the first file of the command line, and write the outcome to the second.

    Args:
        train: does the job.
    """
    task, outcome = map(Path, sys.argv[1:])
    write_json(outcome, dataclasses.asdict(train(Job(**read_json(task)))))
