"""The program `mlx_lm.lora`, run through its command line.

`pipeline.device` is imported first: it makes MLX use a fast BLAS, or the one in MLX's wheel where
TIDEWHEEL_BLAS=none. No code of mlx-lm is changed. A callback in its registry of reporters receives
the figures of each step. mlx-lm is imported inside `train`, because it changes how PyYAML reads
numbers.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

from pipeline.benchmark.peers.job import (
    BETAS,
    EPS,
    SCALE,
    TARGETS,
    WEIGHT_DECAY,
    Job,
    Outcome,
    answer,
)
from pipeline.device import keep_open_file_limit

REPORTER = "tidewheel"


def configuration(job: Job) -> dict[str, Any]:
    """Return the settings for `mlx_lm.lora --config`.

    They are those of our program: AdamW with bias correction, and no validation. Each step is
    reported; mlx-lm does not count the time that this takes.
    """
    return {
        "model": job.model,
        "data": job.rows,
        "train": True,
        "fine_tune_type": "lora",
        "optimizer": "adamw",
        "optimizer_config": {
            "adamw": {
                "betas": list(BETAS),
                "eps": EPS,
                "weight_decay": WEIGHT_DECAY,
                "bias_correction": True,
            }
        },
        "seed": job.seed,
        "num_layers": -1 if job.num_layers is None else job.num_layers,
        "batch_size": job.batch_size,
        "iters": job.num_steps,
        "learning_rate": job.learning_rate,
        "steps_per_report": 1,
        "save_every": job.num_steps,
        "adapter_path": job.output,
        "grad_checkpoint": job.grad_checkpoint,
        "lora_parameters": {
            "rank": job.rank,
            "scale": SCALE,
            "dropout": 0.0,
            "keys": list(TARGETS),
        },
        "report_to": REPORTER,
        "trust_remote_code": False,
    }


def outcome_of(reports: list[dict[str, Any]], batch_size: int) -> Outcome:
    """Turn the reports of single steps into an outcome.

    mlx-lm trains the padding token after each row and counts it. Here it is not counted.

    Args:
        reports: what mlx-lm reports of each step.
        batch_size: rows of a step.
    """
    counts = [0, *(report["trained_tokens"] for report in reports)]
    return Outcome(
        seconds=[1 / report["iterations_per_second"] for report in reports],
        num_targets=[
            int(after - before) - batch_size for before, after in itertools.pairwise(counts)
        ],
        peak_bytes=round(max(report["peak_memory"] for report in reports) * 1e9),
    )


def train(job: Job) -> Outcome:
    """Run `mlx_lm.lora` on a job, in this process."""
    with keep_open_file_limit():
        from mlx_lm import lora
        from mlx_lm.tuner import callbacks
    reports = list[dict[str, Any]]()

    class Reporter(callbacks.TrainingCallback):
        def __init__(self, **settings: Any) -> None:  # noqa: ANN401
            del settings

        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            reports.append(train_info)

    callbacks.SUPPORT_CALLBACK[REPORTER] = Reporter
    config = Path(job.output) / "mlx_lm.yaml"
    config.write_text(json.dumps(configuration(job)), encoding="utf-8")  # JSON is YAML
    sys.argv = ["mlx_lm.lora", "--config", str(config)]
    lora.main()
    return outcome_of(reports, job.batch_size)


if __name__ == "__main__":
    answer(train)
