"""Where the checkpoints of a run lie: a folder that only the very same run finds again."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.errors import CheckpointError
from pipeline.files import FileLock, sha256_bytes, write_json
from pipeline.inputs import ROOT
from pipeline.stage import Paths, dependency_hashes

WITHOUT_EFFECT = frozenset({"inputs", "train.steps_per_save", "train.keep_checkpoints"})
"""Keys that cannot change the result of a run, so that changing them does not start it afresh."""


def run_key(stage_name: str, config: DictConfig, paths: Paths) -> str:
    """Hash all that a stage's result depends on: its parameters, and the files it reads."""
    parameters = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    for name in WITHOUT_EFFECT:
        if OmegaConf.select(parameters, name) is not None:
            OmegaConf.update(parameters, name, None)
    what: dict[str, Any] = {
        "stage": stage_name,
        "parameters": OmegaConf.to_container(parameters),
        "dependencies": dependency_hashes(stage_name, paths),
    }
    return sha256_bytes(json.dumps(what, sort_keys=True).encode())[:16]


class RunFolder:
    """The folder of one run, held against a second process that would do the same."""

    def __init__(self, stage_name: str, config: DictConfig, paths: Paths) -> None:
        """Take the folder.

        `dvc exp run --temp` works in a copy of the repository; the folder is in the real one.

        Raises:
            CheckpointError: when another process has it.
        """
        home = Path(os.environ.get("DVC_ROOT", ROOT)) / ".checkpoints"
        self.path = home / run_key(stage_name, config, paths)
        self.lock = FileLock(home / f"{self.path.name}.lock")
        if not self.lock.acquire():
            owner = self.lock.owner()
            self.lock.release()
            raise CheckpointError(
                f"This very run is already under way, in process {owner}; its "
                f"checkpoints are in {self.path}.\nWait for it, or end it and start again."
            )
        write_json(self.path / "run.json", {"stage": stage_name, "process": os.getpid()})

    def clear(self) -> None:
        """Delete the checkpoints of a run whose outputs are written."""
        shutil.rmtree(self.path)
        self.lock.path.unlink()
        self.lock.release()
