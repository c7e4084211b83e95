"""The time of each part of a step, for `debug.profile=true`."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.train.checkpoints.series import Series

PARTS: tuple[str, ...] = ("batches", "gradients", "update", "validation", "saving")


class Profile:
    """Adds up the seconds of each part of a step, and writes a row per step where wanted."""

    def __init__(self, path: Path | None) -> None:
        self._series = Series(path, ("step", *PARTS)) if path else None
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def resume_after(self, step: int) -> None:
        """Go on after a step."""
        if self._series:
            self._series.resume_after(step)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of a block to one part."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - began

    def end_step(self, step: int) -> None:
        """Write what has been counted since the last step ended."""
        if self._series:
            rounded = {name: round(seconds, 6) for name, seconds in self._seconds.items()}
            self._series.append({"step": step, **rounded})
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def sync(self) -> None:
        """Put the rows on the disk."""
        if self._series:
            self._series.sync()
