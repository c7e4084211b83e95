"""What a worker is to do, as a file that any worker of the run can read."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.files import read_json, write_json


@dataclass(frozen=True)
class Task:
    """One run, as its workers see it.

    Attributes:
        title: what a person reads in front of each line.
        module: the part of the core that knows how; its `make` gets ready for a task.
        parameters: the sections that the stage reads.
        base: models/base.
        prepared: data/prepared.
        run_folder: checkpoints and series of the run.
        output: a folder for what comes out.
        activations: where all runs keep what frozen blocks give; a pretraining has none.
    """

    title: str
    module: str
    parameters: dict[str, Any]
    base: str
    prepared: str
    run_folder: str
    output: str
    activations: str = ""

    @property
    def file(self) -> Path:
        """Where the task is written down."""
        return Path(self.run_folder) / "task.json"

    @property
    def config(self) -> DictConfig:
        """The parameters, by dotted access."""
        return OmegaConf.create(self.parameters)

    def write(self) -> None:
        """Write the task where workers look for it."""
        write_json(self.file, dataclasses.asdict(self))

    @staticmethod
    def read(file: Path) -> "Task":
        """Read a task that `write` wrote."""
        return Task(**read_json(file))


def plain(config: DictConfig) -> dict[str, Any]:
    """Turn sections into what JSON can hold."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(name): value for name, value in container.items()}
