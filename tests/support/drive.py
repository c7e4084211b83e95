"""Runs a supervised training in a process of its own, as the train stage does, without Hydra.

python -m tests.support.drive SETTINGS.json
"""

import json
import sys
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.machine import PeakMeter
from pipeline.train.protocol import RunSpec
from pipeline.train.supervise.run_folder import RunFolder
from pipeline.train.supervise.settings import SupervisorSettings
from pipeline.train.supervise.supervisor import Supervisor

PARAMETERS = {
    "seed": 3,
    "data": {"arrangement": "packed"},
    "model": {"dtype": "auto"},
    "lora": {
        "rank": 4,
        "alpha": 8.0,
        "rslora": False,
        "dropout": 0.3,
        "num_layers": None,
        "targets": ["*"],
    },
    "optim": {
        "learning_rate": 1e-2,
        "weight_decay": 0.01,
        "warmup_fraction": 0.2,
        "final_fraction": 0.1,
        "name": "adamw",
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "no_decay": ["*norm*"],
        "schedule": "cosine",
        "decay_fraction": None,
        "float32_copy": True,
    },
    "objective": {
        "label_smoothing": 0.0,
        "distrust": {"mode": "weighted", "alpha": 2.7, "min_weight": 0.1, "max_weight": 1.9},
    },
    "train": {
        "mode": "lora",
        "tensors": [],
        "init_from": None,
        "num_steps": 12,
        "batch_size": 6,
        "batch_tokens": None,
        "grad_accumulation_steps": 2,
        "grad_checkpoint": False,
        "prefix_cache_gb": 1.0,
        "max_grad_norm": 0.5,
        "steps_per_eval": 5,
        "steps_per_save": 3,
        "validation_documents": 6,
        "validation_tokens": None,
        "best": "val_loss",
        "early_stopping_patience": None,
        "keep_checkpoints": 2,
        "on_non_finite": "stop",
    },
    "debug": {
        "leak_mb_per_step": 0.0,
        "kill_at_step": None,
        "overfit_one_batch": False,
        "profile": False,
    },
}
"""Dropout, accumulation, clipping, a schedule, packing, weights and validation are all on."""


def parameters(**changes):
    """Copy the parameters with some changed, given as section__key."""
    changed = json.loads(json.dumps(PARAMETERS))
    for name, value in changes.items():
        section, key = name.split("__")
        changed[section][key] = value
    return changed


def main():
    given = json.loads(Path(sys.argv[1]).read_text())
    spec = RunSpec(**given["spec"])
    folder = Path(spec.run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    Path(spec.output).mkdir(parents=True, exist_ok=True)
    settings = SupervisorSettings(**given["settings"])
    num_steps = spec.parameters["train"]["num_steps"]
    try:
        with PeakMeter() as meter:
            metrics = Supervisor(spec, num_steps, settings, RunFolder(folder), meter).train()
            metrics |= meter.facts()
    except PipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return 0


if __name__ == "__main__":
    sys.exit(main())
