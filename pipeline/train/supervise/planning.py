"""`--plan`: a worker predicts what the training and the stages after it take; nothing is trained.

The configuration decides. What stages have written is read where it was made with the same
parameters and files, so that the plan knows the length of the rows; else the plan is made from the
settings alone.
"""

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pipeline.config import rules
from pipeline.config.earlier_runs import NONE, EarlierRuns, earlier_runs
from pipeline.config.earlier_stages import RUNS, has_outputs, recorded_parameters
from pipeline.config.graph import makers, sections_of
from pipeline.config.records import (
    FOLDER,
    files_of,
    parameters_of,
    read_record,
    record_of,
    recorded_by_dvc,
)
from pipeline.config.stage_paths import Paths, data_hashes
from pipeline.files import ROOT
from pipeline.train.epochs import with_num_steps
from pipeline.train.protocol import RunSpec, plain
from pipeline.train.supervise.run_folder import RunFolder, activations_home, home
from pipeline.train.supervise.settings import supervisor_settings
from pipeline.train.supervise.supervisor import Supervisor

READ = ("model", "export", "validate")
"""Sections beside those of the train stage that a plan reads."""
EARLIER = ("prepare", "weights")


def plan_of(config: DictConfig, paths: Paths, verbose: bool = False) -> str:
    """Plan a training, and the stages after it.

    Args:
        config: all sections.
        paths: where stages have written.
        verbose: whether the plan has every evaluation, and other settings.

    Raises:
        ConfigError: when a value is missing.
        PipelineError: what a worker found wrong with the model or the rows.
    """
    rules.check_values(config, READ)
    places = written(config, paths)
    if places:
        config = with_num_steps(config, places.read("data/prepared"))
    with RunFolder(home() / f"plan-{os.getpid()}") as run:
        spec = RunSpec(
            title="plan",
            kind="plan",
            parameters=plain(config) | {"verbose": verbose},
            base=str(places.read("models/base").resolve()) if places else "",
            prepared=str(places.read("data/prepared").resolve()) if places else "",
            run_folder=str(run.path.resolve()),
            output=str((paths.out / "models/trained").resolve()),
            activations=str(activations_home().resolve()),
        )
        return Supervisor(spec, 0, supervisor_settings(config.train), run, paths.meter).plan()


def written(config: DictConfig, paths: Paths) -> Paths | None:
    """Find rows and a base of this configuration; None where they are not made yet.

    They may be in the run that was given as `inputs=`, in the repository, or made by hand before.
    """
    if paths.earlier.folders:
        return paths if all(is_in_run(name, config, paths) for name in EARLIER) else None
    if OmegaConf.missing_keys(config):  # such as data.path
        return None
    if all(is_in_repository(name, config) for name in EARLIER):
        return paths
    earlier = made_by_hand(config)
    return earlier and Paths(paths.out, earlier, paths.meter)


def is_in_run(name: str, config: DictConfig, paths: Paths) -> bool:
    """Whether a run that was named leads to the outputs of a stage, of these parameters."""
    folders = [*paths.earlier.folders, *([ROOT] if paths.earlier.with_repository else [])]
    place = next((folder for folder in folders if has_outputs(folder, name)), None)
    if place is None:
        return False
    then = recorded_parameters(place, name)
    return not then or then == parameters_of(config, sections_of(name))


def is_in_repository(name: str, config: DictConfig) -> bool:
    """Whether DVC has made the outputs of a stage of these parameters and files."""
    parameters, files = recorded_by_dvc(name)
    is_same = parameters == parameters_of(config, sections_of(name))
    return has_outputs(ROOT, name) and is_same and files == files_of(name, config)


def made_by_hand(config: DictConfig) -> EarlierRuns | None:
    """Find the runs by hand that have made rows and a base of this configuration."""
    earlier = NONE
    for name in EARLIER:
        if not any(RUNS.glob(f"{name}/*/{FOLDER}")):  # before large files are hashed
            return None
        record = record_of(name, config, data_hashes(name, Paths(Path(), earlier)))
        folder = RUNS / name / record.key
        if read_record(folder, name) != record or not has_outputs(folder, name):
            return None
        earlier = earlier_runs(str(folder), Path(), makers())
    return earlier
