"""The programs that are compared. Each runs in a separate process and reads its job from a file."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.benchmark.peers.child import failure, run_module
from pipeline.benchmark.peers.job import Job, Outcome
from pipeline.blas.choose import SETTING
from pipeline.files import read_json, write_json


@dataclass(frozen=True)
class Program:
    """A program that trains a model.

    Attributes:
        module: the module to start; its arguments are the file of the job and that of the outcome.
        environment: variables to add to those of this process.
        dtype: the type to train in; only the programs with torch read it.
    """

    module: str
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"


OURS, UNCACHED = "ours", "ours_uncached"
MLX_LM, INSTALLED = "mlx_lm", "mlx_lm_as_installed"
FLOAT32, BFLOAT16 = "torch_peft_float32", "torch_peft_bfloat16"
PROGRAMS = {
    OURS: Program("pipeline.benchmark.peers.ours"),
    UNCACHED: Program("pipeline.benchmark.peers.ours"),
    MLX_LM: Program("pipeline.benchmark.peers.mlx_lm_lora"),
    INSTALLED: Program("pipeline.benchmark.peers.mlx_lm_lora", {SETTING: "none"}),
    FLOAT32: Program("pipeline.benchmark.peers.torch_peft"),
    BFLOAT16: Program("pipeline.benchmark.peers.torch_peft", dtype="bfloat16"),
}


def run(name: str, job: Job) -> Outcome:
    """Run a program on a job, and wait for it.

    Raises:
        NotMeasured: when it fails, with the end of its output.
    """
    program, folder = PROGRAMS[name], Path(job.output)
    folder.mkdir(parents=True, exist_ok=True)
    task, outcome = folder / "job.json", folder / "outcome.json"
    write_json(task, dataclasses.asdict(dataclasses.replace(job, dtype=program.dtype)))
    done = run_module(program.module, [str(task), str(outcome)], program.environment)
    if done.returncode or not outcome.is_file():
        raise failure(name, done)
    return Outcome(**read_json(outcome))
