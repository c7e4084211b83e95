"""What a stage by hand has made its outputs of: a record in the folder of its run.

By it a later command finds outputs that need not be made again, and notices when it is asked for
others than those that are there. For the outputs of DVC dvc.lock is this record.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from pipeline.config.graph import code_hashes, sections_of
from pipeline.config.keys import flat, inside
from pipeline.config.rules import deciding
from pipeline.external.inputs import PARTS
from pipeline.files import ROOT, read_json, sha256_bytes, write_json

FOLDER = ".made"
FLOAT_AS_TEXT = re.compile(r"-?\d+e[+-]\d+")
"""DVC writes floats so, and YAML 1.1 reads them as text."""


@dataclass(frozen=True)
class Record:
    """What decides the outputs of a stage.

    Attributes:
        stage: its name in dvc.yaml.
        parameters: by dotted name, those that can change a result.
        files: size and hash of each file outside the repository that it reads.
        data: hash of each output of other stages that it reads.
        code: hash of each module and folder of code that it reaches.
    """

    stage: str
    parameters: dict[str, Any]
    files: dict[str, Any]
    data: dict[str, str]
    code: dict[str, str]

    @property
    def key(self) -> str:
        """The name of the folder of a run that is found again."""
        return sha256_bytes(json.dumps(asdict(self), sort_keys=True).encode())[:16]

    def write(self, run: Path) -> None:
        """Write it into the folder of a run whose outputs are complete."""
        file = run / FOLDER / f"{self.stage}.json"
        file.parent.mkdir(exist_ok=True)
        write_json(file, asdict(self))


def record_of(stage_name: str, config: DictConfig, data: dict[str, str]) -> Record:
    """Describe what a stage would make its outputs of now.

    Args:
        stage_name: by its name in dvc.yaml.
        config: all parameters, resolved.
        data: hashes of the outputs of other stages that it would read.
    """
    parameters = parameters_of(config, sections_of(stage_name))
    files = files_of(stage_name, config)
    return Record(stage_name, parameters, files, data, code_hashes(stage_name))


def files_of(stage_name: str, config: DictConfig) -> dict[str, Any]:
    """Fingerprint the files outside the repository that a stage reads."""
    parts = [part for part in PARTS if f"inputs.{part}" in sections_of(stage_name)]
    return {part: PARTS[part](config) for part in parts}


def parameters_of(config: DictConfig, sections: tuple[str, ...]) -> dict[str, Any]:
    """List the parameters in some sections that can change a result, by dotted name."""
    values = OmegaConf.to_container(config)
    assert isinstance(values, dict)
    return deciding({name: value for name, value in flat(values) if inside(name, sections)})


def read_record(run: Path, stage_name: str) -> Record | None:
    """Read what a stage has recorded; None where there is nothing of the kind."""
    try:
        return Record(**read_json(run / FOLDER / f"{stage_name}.json"))
    except (OSError, ValueError, TypeError):
        return None


def recorded_by_dvc(stage_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read parameters and files of the outputs in the repository from dvc.lock.

    Returns:
        Two empty dictionaries where it does not know the stage, or cannot be read.
    """
    try:
        lock = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))
        values = dict(lock["stages"][stage_name]["params"]["params.yaml"])
    except (OSError, UnicodeError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return {}, {}
    files = {name: values.pop(name) for name in list(values) if name.startswith("inputs.")}
    parameters = {name: as_number(value) for name, value in flat(values)}
    return deciding(parameters), {name.removeprefix("inputs."): files[name] for name in files}


def as_number(value: Any) -> Any:  # noqa: ANN401
    """Return a number where a float was read as text."""
    return float(value) if isinstance(value, str) and FLOAT_AS_TEXT.fullmatch(value) else value
