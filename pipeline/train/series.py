"""The series that become plots: appended while training, cut back when a run resumes."""

import csv
import io
import os
from pathlib import Path
from typing import Any

from pipeline.files import write_text

TRAIN_COLUMNS = (
    "step",
    "train_loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "footprint_bytes",
    "mlx_active_bytes",
    "mlx_cache_bytes",
    "memory_limit_bytes",
    "reload_above_bytes",
    "reloads",
)
VALIDATION_COLUMNS = ("step", "train_loss", "val_loss")
MACHINE_COLUMNS = frozenset(
    {
        "tokens_per_second",
        "footprint_bytes",
        "mlx_active_bytes",
        "mlx_cache_bytes",
        "memory_limit_bytes",
        "reload_above_bytes",
        "reloads",
    }
)
"""Columns that tell of the machine, not of the result: they may differ between equal runs."""


class Series:
    """A CSV file whose first column is the step."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns = path, columns

    def resume_after(self, step: int) -> None:
        """Forget what was written after a step, and open the file for more.

        A run that was killed has written further than its newest checkpoint.
        """
        kept = [row for row in self.rows() if int(row["step"]) <= step]
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        write_text(self.path, text.getvalue())
        self._file = self.path.open("a", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, self.columns, lineterminator="\n")

    def append(self, row: dict[str, Any]) -> None:
        """Add one row; floats are written so that reading gives the same bits."""
        self._writer.writerow({name: repr(value) for name, value in row.items()})

    def sync(self) -> None:
        """Make the rows durable, as a checkpoint that counts on them must."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write out and close."""
        self.sync()
        self._file.close()

    def rows(self) -> list[dict[str, str]]:
        """Read the whole rows there are; a last line that a kill cut short does not count."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        return list(csv.DictReader(io.StringIO(whole)))
