"""What makes two runs the same run, and how a run differs from others.

Code is no part of it: a checkpoint holds the hashes of the code that computed it, and a run that
resumes with other code refuses, or records that it is inexact.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.files import read_json, sha256_bytes, write_json

FILE = "identity.json"
ABSENT = "absent"


@dataclass(frozen=True)
class Identity:
    """The identity of a run.

    Attributes:
        stage: the stage of dvc.yaml.
        parameters: by dotted name, those that can change a result.
        data: hash of each file and folder of other stages that it reads, the base included.
    """

    stage: str
    parameters: dict[str, Any]
    data: dict[str, str]

    @property
    def key(self) -> str:
        """The name of the folder of the run."""
        return sha256_bytes(json.dumps(asdict(self), sort_keys=True).encode())[:16]

    def write(self, folder: Path) -> None:
        """Write it into the folder of the run."""
        write_json(folder / FILE, asdict(self))

    @staticmethod
    def read(folder: Path) -> "Identity | None":
        """Read what `write` has written; None where there is nothing of the kind."""
        try:
            return Identity(**read_json(folder / FILE))
        except (OSError, ValueError, TypeError):
            return None

    def is_comparable(self, other: "Identity") -> bool:
        """Whether another run differs from this one, and in parameters only."""
        same = (self.stage, self.data) == (other.stage, other.data)
        return same and self.parameters != other.parameters

    def differences(self, other: "Identity") -> list[str]:
        """List the parameters in which another run of this stage differs, as `key: its -> own`."""
        names = sorted(self.parameters.keys() | other.parameters.keys())
        pairs = [
            (name, other.parameters.get(name, ABSENT), self.parameters.get(name, ABSENT))
            for name in names
        ]
        return [f"{name}: {text(old)} -> {text(new)}" for name, old, new in pairs if old != new]


def text(value: Any) -> str:  # noqa: ANN401
    """Write a value of a parameter as a person would."""
    return value if isinstance(value, str) else json.dumps(value)
