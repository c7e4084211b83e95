"""How far a training is, in a file that other processes read."""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.files import write_json
from pipeline.machine import Held
from pipeline.train.memory import GB

FILE = "status.json"


@dataclass(frozen=True)
class Status:
    """The state of a run, written by its supervisor once a second.

    Attributes:
        state: `running`, or `stopping` after a signal.
        process: the supervisor's id.
        peak_footprint_bytes: the most that all processes of the run have held so far.
        peak_resident_bytes: the sum of the most that each of them had in memory.
        unix_seconds: time of writing.
    """

    title: str
    state: str
    process: int
    step: int
    num_steps: int
    seconds_per_step: float
    tokens_per_second: float
    footprint_bytes: int
    peak_footprint_bytes: int
    peak_resident_bytes: int
    limit_bytes: int
    reloads: int
    unix_seconds: float

    @property
    def eta_seconds(self) -> float:
        """Time that the remaining steps will take, in seconds."""
        return (self.num_steps - self.step) * self.seconds_per_step

    def write(self, folder: Path) -> None:
        """Write it into the folder of the run."""
        write_json(folder / FILE, dataclasses.asdict(self))

    @staticmethod
    def read(folder: Path) -> "Status | None":
        """Read what the newest supervisor of a run has written; None if there is none."""
        try:
            return Status(**json.loads((folder / FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @staticmethod
    def peak_of(folder: Path) -> Held:
        """Read the peaks of earlier supervisors of a run; zeros if there was none."""
        status = Status.read(folder)
        return Held(status.peak_footprint_bytes, status.peak_resident_bytes) if status else Held()

    def line(self) -> str:
        """Describe it in one line."""
        eta = time.strftime("%H:%M:%S", time.gmtime(self.eta_seconds))
        rate = 1 / self.seconds_per_step if self.seconds_per_step else 0.0
        return (
            f"{self.title}: step {self.step}/{self.num_steps}, {rate:.2f} steps/s, "
            f"{self.tokens_per_second:,.0f} tokens/s, footprint {self.footprint_bytes / GB:.2f} GB "
            f"of {self.limit_bytes / GB:.2f} GB, {self.reloads} reloads, {eta} to go "
            f"(process {self.process})"
        )
