"""The series that become plots: appended while training, cut back when a run resumes."""

import csv
import io
import itertools
import os
from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError
from pipeline.files import sync_folder, write_text

RESULT_COLUMNS = (
    "step",
    "train_loss",
    "learning_rate",
    "grad_norm",
    "distrust_term",
    "mean_weight",
)
MACHINE_COLUMNS = (
    "step",
    "targets_per_second",
    "tokens_per_second",
    "footprint_bytes",
    "mlx_active_bytes",
    "mlx_cache_bytes",
    "mlx_peak_bytes",
    "memory_limit_bytes",
    "reload_above_bytes",
    "reloads",
)
"""Columns of the machine, not of the result: they may differ between equal runs."""
VALIDATION_COLUMNS = ("step", "train_loss", "val_loss", "conflicts_primary_share")
"""The share is measured where it chooses the best weights, on the contests of the validation."""
MACHINE_METRICS = frozenset(
    {
        "leak_bytes_per_step",
        "memory_floor_bytes",
        "memory_limit_bytes",
        "peak_footprint_bytes",
        "peak_memory_bytes",
        "peak_resident_bytes",
        "predicted_peak_memory_bytes",
        "prefix",
        "pretrain_wall_seconds",
        "recoveries",
        "reload_seconds",
        "reloads",
        "stage_seconds",
        "targets_per_second",
        "tokens_per_second",
        "wall_seconds",
    }
)
"""Metrics of the machine, not of the result: they may differ between equal runs.

The predicted peak depends on the processor too, and is read next to the measured one.
"""


def split_metrics(metrics: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate the metrics of a run into those of the result and those of the machine."""
    results = {name: value for name, value in metrics.items() if name not in MACHINE_METRICS}
    return results, {name: value for name, value in metrics.items() if name in MACHINE_METRICS}


class Series:
    """A CSV file whose first column is the step; rows reach it when they are made durable."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns = path, columns
        self._pending: list[str] = []
        self._durable_bytes = 0
        self._is_suspect = False

    def resume_after(self, step: int) -> None:
        """Delete the rows after a step.

        A killed run has written rows beyond its newest checkpoint.

        Raises:
            CheckpointError: when the file cannot be written.
        """
        lines = [",".join(self.columns) + "\n"]
        lines += [self.line(row) for row in self.rows() if int(row[self.columns[0]]) <= step]
        self._pending, self._durable_bytes, self._is_suspect = lines, 0, True
        self.sync()

    def append(self, row: dict[str, Any]) -> None:
        """Add one row; floats are written so that reading gives the same bits, None as nothing."""
        written = {name: "" if value is None else repr(value) for name, value in row.items()}
        self._pending.append(self.line(written))

    def line(self, row: dict[str, str]) -> str:
        """Write a row as the file has it."""
        text = io.StringIO()
        csv.DictWriter(text, self.columns, lineterminator="\n").writerow(row)
        return text.getvalue()

    def sync(self) -> None:
        """Put the rows on the disk; a checkpoint is written only after that.

        After a failure the content of the file is unknown, and a second fsync would not show it.
        The next call then writes a new file in its place.

        Raises:
            CheckpointError: when that cannot be done; the rows are kept for the next call.
        """
        text = "".join(self._pending)
        try:
            if self._is_suspect:
                self.replace(text)
            else:
                self.extend(text)
        except OSError as error:
            self._is_suspect = True
            raise CheckpointError(
                f"{self.path}: {len(self._pending)} lines were not written ({error}).\n"
                f"See that {self.path.parent} is there, can be written and has room, and start "
                "again: training goes on from the newest checkpoint."
            ) from error
        self._pending, self._is_suspect = [], False
        self._durable_bytes += len(text.encode())

    def extend(self, text: str) -> None:
        """Write after the durable part of the file; a missing file is an error."""
        with self.path.open("r+b") as file:
            file.seek(self._durable_bytes)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def replace(self, text: str) -> None:
        """Write the durable part and the new rows into a new file."""
        durable = self.path.read_bytes()[: self._durable_bytes] if self._durable_bytes else b""
        write_text(self.path, durable.decode() + text)
        sync_folder(self.path.parent)

    def rows(self) -> list[dict[str, str]]:
        """Read the complete rows, up to the first that a kill or a power loss has damaged."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        rows = csv.DictReader(io.StringIO(whole), strict=True)
        return list(itertools.takewhile(self.is_whole, rows))

    def is_whole(self, row: dict[str, str]) -> bool:
        """Whether a row has a value in each column, and a step in the first."""
        values = list(row.values())
        return None not in values and tuple(row) == self.columns and values[0].isdecimal()
