"""The fine-tuning."""

import shutil

from omegaconf import DictConfig

from pipeline.files import new_folder, write_json
from pipeline.model.adapters import AdapterSettings
from pipeline.optim import OptimSettings
from pipeline.stage import Paths, stage
from pipeline.train.loop import TrainSettings
from pipeline.train.runs import RunFolder
from pipeline.train.tune import DistrustSettings, Job, fine_tune


@stage("seed", "data.arrangement", "model.dtype", "lora", "objective", "optim", "train")
def main(config: DictConfig, paths: Paths) -> float:
    """Fine-tune: writes models/trained, metrics/train.json, plots/train.csv, plots/validation.csv.

    A run that is stopped goes on from its newest checkpoint when it is started again.
    """
    run_folder = RunFolder("train", config, paths)
    job = Job(
        base=paths.read("models/base"),
        prepared=paths.read("data/prepared"),
        run_folder=run_folder.path,
        dtype=config.model.dtype,
        adapter=AdapterSettings(
            config.train.mode, **{**config.lora, "targets": tuple(config.lora.targets)}
        ),
        optim=OptimSettings(**config.optim),
        train=train_settings(config),
        distrust=DistrustSettings(**config.objective.distrust),
    )
    with new_folder(paths.write("models/trained")) as trained:
        metrics = fine_tune(job, trained)
    for name in ("train.csv", "validation.csv"):
        shutil.copyfile(run_folder.path / name, paths.write(f"plots/{name}"))
    write_json(paths.write("metrics/train.json"), metrics)
    run_folder.clear()
    return metrics["val_loss"]


def train_settings(config: DictConfig) -> TrainSettings:
    """Gather what the training loop needs."""
    section = {name: value for name, value in config.train.items() if name != "mode"}
    return TrainSettings(**section, arrangement=config.data.arrangement, seed=config.seed)


if __name__ == "__main__":
    main()
