"""The folder of a run, with its checkpoints: only the same run finds it again."""

import os
import shutil
from pathlib import Path
from typing import Any, cast

import psutil
from omegaconf import DictConfig, OmegaConf

from pipeline.config.rules import deciding
from pipeline.config.stage_paths import Paths, data_hashes
from pipeline.errors import CheckpointError
from pipeline.external.initial import initial_hash
from pipeline.files import ROOT, FileLock
from pipeline.train.supervise import identity
from pipeline.train.supervise.identity import Identity
from pipeline.train.supervise.status import Status

MAX_LISTED = 5
"""Differing parameters of another run that are named."""
INIT_FROM = "train.init_from"
RESULTS = "results.jsonl"
"""What a stage without steps has measured so far."""
WORTH_KEEPING = ("step-*", "non_finite-*", RESULTS)


def repository() -> Path:
    """Return the repository that all runs share; `dvc exp run --temp` works in a copy of it."""
    return Path(os.environ.get("DVC_ROOT", ROOT))


def home() -> Path:
    """Return the folder of all runs."""
    return repository() / ".checkpoints"


def activations_home() -> Path:
    """Return the folder of the activations that all runs share."""
    return repository() / "models/prefix"


def identity_of(stage_name: str, config: DictConfig, paths: Paths) -> Identity:
    """Describe the run that a stage makes of its parameters and of the files it reads."""
    found = deciding(cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)))
    if found.get(INIT_FROM) is not None:  # the weights decide, and not where they lie
        found[INIT_FROM] = initial_hash(found[INIT_FROM])
    return Identity(stage_name, found, data_hashes(stage_name, paths))


class RunFolder:
    """The folder of one run, locked against a second process of the same run.

    As a context manager, it deletes the folder at the end if it holds nothing worth keeping, as
    after a plan or a refused start.
    """

    def __init__(self, path: Path) -> None:
        """Lock the folder, and make it where it does not exist.

        Raises:
            CheckpointError: when another process holds it.
        """
        self.path = path
        self.lock = FileLock(path.with_name(f"{path.name}.lock"))
        owner = self.lock.acquire_after(self.is_being_left)
        if owner is not None:
            raise CheckpointError(self.under_way(owner))
        self.path.mkdir(exist_ok=True)

    @staticmethod
    def of_stage(stage_name: str, config: DictConfig, paths: Paths) -> "RunFolder":
        """Lock the folder of a run of a stage.

        Raises:
            CheckpointError: when another process holds it.
        """
        identity = identity_of(stage_name, config, paths)
        run = RunFolder(home() / identity.key)
        identity.write(run.path)
        return run

    def is_being_left(self) -> bool:
        """Whether the process that holds the folder is stopping, or only its worker is left."""
        owner = self.lock.owner()
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            return True
        status = Status.read(self.path)
        return status is not None and status.state == "stopping"

    def under_way(self, owner: str) -> str:
        """Word the refusal of a run that another process makes already."""
        has_steps = Status.read(self.path) is not None
        shown = " (`python -m stages.train --status` shows how far it is)" if has_steps else ""
        return (
            f"This run is already under way, in process {owner}, and keeps its state in "
            f"{self.path}.\nWait for it{shown}, or end it (`kill {owner}`) and start again: it "
            "goes on from there."
        )

    def choose_start(self, resume: str) -> None:
        """Apply `train.resume`: delete what there is, or require a checkpoint.

        Raises:
            CheckpointError: when a checkpoint is required and there is none.
        """
        if resume == "never":
            for item in self.path.iterdir():
                if item.name != identity.FILE:
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
        if resume == "required" and newest_step(self.path) is None:
            raise CheckpointError(
                f"train.resume=required: this run has no checkpoint in {self.path}.\n"
                "A run with any other parameter, data or base is another run. "
                "Go back to those, or start with train.resume=auto."
            )

    def near_run(self) -> str:
        """Describe the unfinished run that differs from this one in the fewest parameters.

        Only runs of the same stage on the same data and base count; empty where there is none.
        """
        own = Identity.read(self.path)
        near: list[tuple[int, int, list[str]]] = []
        for folder in self.path.parent.glob("*/"):
            other, step = Identity.read(folder), newest_step(folder)
            if own and other and step is not None and own.is_comparable(other):
                differences = own.differences(other)
                near.append((len(differences), -step, differences))
        if not near:
            return ""
        count, negative_step, differences = min(near)
        more = f" and {count - MAX_LISTED} more" if count > MAX_LISTED else ""
        return (
            f"this is a new run. An unfinished one on the same data and base stands at step "
            f"{-negative_step}; it differs in {', '.join(differences[:MAX_LISTED])}{more} "
            "(its value -> the value here)."
        )

    def clear(self) -> None:
        """Delete the checkpoints of a run whose outputs are written."""
        shutil.rmtree(self.path)
        self.lock.path.unlink()
        self.lock.release()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        kept = [item for pattern in WORTH_KEEPING for item in self.path.glob(pattern)]
        if self.path.exists() and not kept:
            self.clear()
        self.lock.release()


def newest_step(folder: Path) -> int | None:
    """Return the step of the newest checkpoint in the folder of a run; None if it has none."""
    return max(
        (int(path.name.removeprefix("step-")) for path in folder.glob("step-*")), default=None
    )


def statuses() -> list[str]:
    """Describe each unfinished run in one line: how far it is, and whether it is running."""
    lines = []
    for folder in sorted(home().glob("*/")):
        status = Status.read(folder)
        if status is not None:
            running = psutil.pid_exists(status.process)
            lines.append(status.line() if running else f"{status.line()}: not running")
    return lines or ["no training is under way"]
