"""The fine-tuning."""

import shutil
from pathlib import Path

from omegaconf import DictConfig

from pipeline.config.arguments import Flag
from pipeline.config.graph import code_hashes
from pipeline.config.stage import stage
from pipeline.config.stage_paths import Paths
from pipeline.external.inputs import check_unchanged
from pipeline.train.epochs import with_num_steps
from pipeline.train.picture import draw_memory
from pipeline.train.protocol import RunSpec, plain
from pipeline.train.summary import write_metrics
from pipeline.train.supervise.planning import plan_of
from pipeline.train.supervise.run_folder import RunFolder, activations_home, statuses
from pipeline.train.supervise.settings import supervisor_settings
from pipeline.train.supervise.supervisor import Supervisor

SERIES = ("train.csv", "machine.csv", "validation.csv")


@stage(
    "seed",
    "data.arrangement",
    "model.dtype",
    "lora",
    "objective",
    "optim",
    "train",
    "debug",
    "inputs.init_from",
    flags=(
        Flag("plan", "print what memory and time all stages would take", takes_all=True),
        Flag("verbose", "with --plan: each part of the memory, and other settings", needs="plan"),
        Flag("status", "print how far the running trainings are"),
    ),
)
def main(
    config: DictConfig, paths: Paths, plan: bool = False, status: bool = False, **more: bool
) -> float | None:
    """Fine-tune: writes models/trained and what came of it, to metrics/ and plots/.

    Results are in metrics/train.json, plots/train.csv and plots/validation.csv; figures of this
    machine in metrics/machine.json, metrics/train_machine.json, plots/machine.csv and
    plots/memory.png.

    A run that was stopped resumes from its newest checkpoint when it is started again.
    """
    if status:
        print("\n".join(statuses()))
        return None
    if plan:
        print(plan_of(config, paths, **more))
        return None
    check_unchanged(config, "init_from")
    config = with_num_steps(config, paths.read("data/prepared"))
    with RunFolder.of_stage("train", config, paths) as run:
        return train(config, paths, run)


def train(config: DictConfig, paths: Paths, run: RunFolder) -> float:
    """Train to the end; return the validation loss of the final weights."""
    with paths.folder("models/trained") as trained:
        metrics = supervisor(config, paths, run, trained).train()
    for name in [*SERIES, *(["profile.csv"] if config.debug.profile else [])]:
        with paths.file(f"plots/{name}") as file:
            shutil.copyfile(run.path / name, file)
    with paths.file("plots/memory.png") as picture:
        draw_memory(run.path / "machine.csv", picture)
    results = write_metrics(paths, metrics)
    run.clear()
    return results["val_loss"]


def supervisor(config: DictConfig, paths: Paths, run: RunFolder, output: Path) -> Supervisor:
    """Specify the run, and return the supervisor that keeps it going."""
    spec = RunSpec(
        title="train",
        kind="finetune",
        parameters=plain(config),
        base=str(paths.read("models/base").resolve()),
        prepared=str(paths.read("data/prepared").resolve()),
        run_folder=str(run.path.resolve()),
        output=str(output.resolve()),
        activations=str(activations_home().resolve()),
        code=code_hashes("train"),
    )
    settings = supervisor_settings(config.train)
    return Supervisor(spec, config.train.num_steps, settings, run, paths.meter)


if __name__ == "__main__":
    main()
