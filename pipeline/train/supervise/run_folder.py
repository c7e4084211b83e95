"""Where the checkpoints of a run lie: a folder that only the very same run finds again."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf

from pipeline.config.rules import ONLY_WHETHER, WITHOUT_EFFECT
from pipeline.config.stage import Paths, dependency_hashes
from pipeline.errors import CheckpointError
from pipeline.files import ROOT, FileLock, sha256_bytes
from pipeline.train.supervise.status import Status

HANDOVER_SECONDS = 120
WORTH_KEEPING = ("step-*", "non_finite-*")


def repository() -> Path:
    """Give the repository that all runs share; `dvc exp run --temp` works in a copy of it."""
    return Path(os.environ.get("DVC_ROOT", ROOT))


def home() -> Path:
    """Give the folder of all runs."""
    return repository() / ".checkpoints"


def activations_home() -> Path:
    """Give the folder of the activations that all runs share."""
    return repository() / "models/prefix"


def run_key(stage_name: str, config: DictConfig, paths: Paths) -> str:
    """Hash all that a stage's result depends on: its parameters, and the files it reads."""
    parameters = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    for name in WITHOUT_EFFECT:
        if OmegaConf.select(parameters, name) is not None:
            OmegaConf.update(parameters, name, None)
    for name in ONLY_WHETHER:
        if (value := OmegaConf.select(parameters, name)) is not None:
            OmegaConf.update(parameters, name, bool(value))
    what: dict[str, Any] = {
        "stage": stage_name,
        "parameters": OmegaConf.to_container(parameters),
        "dependencies": dependency_hashes(stage_name, paths),
    }
    return sha256_bytes(json.dumps(what, sort_keys=True).encode())[:16]


class RunFolder:
    """The folder of one run, held against a second process that would do the same.

    A context manager: a folder in which nothing worth keeping has come to be is deleted at the end,
    as that of a plan, or of a start that was refused.
    """

    def __init__(self, path: Path) -> None:
        """Take the folder.

        Raises:
            CheckpointError: when another process has it.
        """
        self.path = path
        self.lock = FileLock(path.with_name(f"{path.name}.lock"))
        deadline = time.monotonic() + HANDOVER_SECONDS
        while not self.lock.acquire():
            if not self.is_being_left() or time.monotonic() > deadline:
                self.refuse()
            time.sleep(0.1)
        self.path.mkdir(exist_ok=True)

    @staticmethod
    def of_stage(stage_name: str, config: DictConfig, paths: Paths) -> "RunFolder":
        """Take the folder that this very run of a stage has, and no other one."""
        return RunFolder(home() / run_key(stage_name, config, paths))

    def is_being_left(self) -> bool:
        """Tell whether the process that has the folder is gone, but for its worker, or going."""
        owner = self.lock.owner()
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            return True
        status = Status.read(self.path)
        return status is not None and status.state == "stopping"

    def refuse(self) -> None:
        """Say who has the folder.

        Raises:
            CheckpointError: always.
        """
        owner = self.lock.owner()
        self.lock.release()
        raise CheckpointError(
            f"This very run is already under way, in process {owner}; its "
            f"checkpoints are in {self.path}.\nWait for it (`python -m stages.train status=true` "
            "shows how far it is), or end it and start again."
        )

    def choose_start(self, resume: str) -> None:
        """Obey `train.resume`: forget what there is, or insist on it.

        Raises:
            CheckpointError: when there must be a checkpoint, and is none.
        """
        found = list(self.path.glob("step-*"))
        if resume == "never":
            for item in self.path.iterdir():
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        if resume == "required" and not found:
            raise CheckpointError(
                f"train.resume=required: this run has no checkpoint in {self.path}.\n"
                "A run with any other parameter, data or code is another run. "
                "Go back to those, or start with train.resume=auto."
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


def statuses() -> list[str]:
    """Say of each run that is not finished how far it is, and whether it is running."""
    lines = []
    for folder in sorted(home().glob("*/")):
        status = Status.read(folder)
        if status is not None:
            running = psutil.pid_exists(status.process)
            lines.append(status.line() if running else f"{status.line()}: not running")
    return lines or ["no training is under way"]
