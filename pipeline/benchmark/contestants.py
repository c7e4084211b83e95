"""Who takes part in the comparison: each in a process of its own, told what to do by a file."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.blas.choose import SETTING
from pipeline.files import read_json, write_json
from pipeline.inputs import ROOT

WARMUP_STEPS = 1
"""The first step of a process compiles, and maps what it has not touched yet."""
SHOWN_CHARACTERS = 600


class NotMeasured(Exception):
    """A figure could not be measured; the text says why."""


@dataclass(frozen=True)
class Job:
    """What a contestant is to train.

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
    """What a contestant measured of itself.

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


@dataclass(frozen=True)
class Contestant:
    """A program that trains.

    Attributes:
        module: what is started; it takes two files, a job and where to write the outcome.
        environment: what it finds in its environment besides ours.
        dtype: of the job, where it matters.
    """

    module: str
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"


OURS, UNCACHED = "ours", "ours_uncached"
MLX_LM, INSTALLED = "mlx_lm", "mlx_lm_as_installed"
FLOAT32, BFLOAT16 = "torch_peft_float32", "torch_peft_bfloat16"
CONTESTANTS = {
    OURS: Contestant("pipeline.benchmark.ours"),
    UNCACHED: Contestant("pipeline.benchmark.ours"),
    MLX_LM: Contestant("pipeline.benchmark.mlx_lm_lora"),
    INSTALLED: Contestant("pipeline.benchmark.mlx_lm_lora", {SETTING: "none"}),
    FLOAT32: Contestant("pipeline.benchmark.torch_peft"),
    BFLOAT16: Contestant("pipeline.benchmark.torch_peft", dtype="bfloat16"),
}


def run(name: str, job: Job) -> Outcome:
    """Let a contestant do a job, and wait for it.

    Raises:
        NotMeasured: when it ends badly, with the last it said.
    """
    contestant, folder = CONTESTANTS[name], Path(job.output)
    folder.mkdir(parents=True, exist_ok=True)
    task, outcome = folder / "job.json", folder / "outcome.json"
    write_json(task, dataclasses.asdict(dataclasses.replace(job, dtype=contestant.dtype)))
    done = subprocess.run(
        [sys.executable, "-m", contestant.module, str(task), str(outcome)],
        cwd=ROOT,
        env={**os.environ, **contestant.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not outcome.is_file():
        last = " ".join(done.stdout[-SHOWN_CHARACTERS:].split())
        raise NotMeasured(f"{name} ended with exit status {done.returncode}: {last}")
    return Outcome(**read_json(outcome))


def answer(path: Path, outcome: Outcome) -> None:
    """Write the outcome, from within a contestant."""
    write_json(path, dataclasses.asdict(outcome))
