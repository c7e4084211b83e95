"""Runs of the train stage by its command, on the material of the comparison.

The environment variable `DVC_ROOT` names the folder of checkpoints and other files that runs share.
Here it is a temporary folder, so that those of the repository are neither read nor changed.
"""

from pathlib import Path

from pipeline.benchmark.peers.child import failure, run_module
from pipeline.benchmark.peers.corpus import Material
from pipeline.benchmark.peers.job import SCALE, TARGETS, WEIGHT_DECAY
from pipeline.benchmark.peers.rounds import Comparison

VALIDATION_DOCUMENTS = 8


def overrides(comparison: Comparison, num_steps: int) -> list[str]:
    """Return the overrides that all these runs share; other keys have the values of conf/."""
    settings = comparison.settings
    return [
        f"seed={comparison.seed}",
        f"lora.num_layers={max(1, settings.model.num_hidden_layers // 4)}",
        f"lora.alpha={SCALE * settings.rank}",
        f"lora.targets=[{','.join(TARGETS)}]",
        f"optim.learning_rate={settings.learning_rate}",
        f"optim.weight_decay={WEIGHT_DECAY}",
        f"train.num_steps={num_steps}",
        f"train.batch_size={settings.batch_size}",
        f"train.steps_per_eval={num_steps}",
        f"train.steps_per_save={num_steps}",
        f"train.validation_documents={VALIDATION_DOCUMENTS}",
    ]


def run_train_stage(folder: Path, material: Material, arguments: list[str]) -> None:
    """Run the train stage on material, and wait for its end.

    Args:
        folder: a new folder: for links to the material, laid out as in an earlier run, under
            `inputs`, checkpoints and caches under `root`, and results under `run`.
        material: the model and the rows.
        arguments: overrides.

    Raises:
        NotMeasured: when it fails, with the end of its output.
    """
    inputs, root, run = (folder / name for name in ("inputs", "root", "run"))
    root.mkdir(parents=True)
    for name, place in (("data/prepared", material.prepared), ("models/base", material.model)):
        (inputs / name).parent.mkdir(parents=True)
        (inputs / name).symlink_to(place.resolve())
    places = [f"inputs={inputs}", f"hydra.run.dir={run}", f"hydra.sweep.dir={run}"]
    done = run_module("stages.train", [*arguments, *places], {"DVC_ROOT": str(root)})
    if done.returncode:
        raise failure("stages.train", done)
