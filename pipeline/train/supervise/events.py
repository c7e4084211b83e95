"""What a person and other processes see of a run: lines, a bar, its journal, its status."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from pipeline.console import TrainingProgress
from pipeline.machine import PeakMeter
from pipeline.train.protocol import Started, Step, Validated
from pipeline.train.supervise.journal import Journal
from pipeline.train.supervise.run_state import RunState
from pipeline.train.supervise.status import Status

STATUS_SECONDS = 1.0


class Events:
    """Shows the events of a run and writes them down.

    Args:
        title: names the run.
        num_steps: how many steps it has.
        folder: of the run, for journal and status.
        state: of the run; it is only read here.
    """

    def __init__(self, title: str, num_steps: int, folder: Path, state: RunState) -> None:
        self.title, self.num_steps, self.folder, self.state = title, num_steps, folder, state
        self.journal = Journal(folder)
        self.progress = TrainingProgress(title, num_steps)
        self._status_written = 0.0

    def note(self, text: str) -> None:
        """Show a line to a person."""
        self.progress.note(f"{self.title}: {text}")

    def started(self, event: Started) -> None:
        """Record how a segment began: a start, a planned change of process, or a recovery."""
        step, seconds = event.step, self.state.reload_seconds
        if event.changed:
            self.inexact(f"continuing inexactly: {event.changed}", "; ".join(event.changed), step)
        if seconds is not None:
            self.journal.add("reload", step=step, seconds=round(seconds, 4))
        elif self.journal.entries():
            self.journal.add("recovery", step=step)
            if step:
                self.note(f"resuming after step {step}")
        else:
            self.journal.add("start")
        self.progress.start_at(step)

    def stepped(self, event: Step) -> None:
        """Show a step."""
        self.progress.step(
            event.step, event.train_loss, event.tokens_per_second, event.footprint_bytes
        )

    def validated(self, event: Validated) -> None:
        """Show a validation."""
        self.progress.note(f"{self.title} step {event.step}: val_loss {event.val_loss:.4f}")

    def sampled(self, step: int, seconds: float, text: str) -> None:
        """Show and record the samples after a step, or why there are none."""
        self.journal.add("samples", step=step, seconds=round(seconds, 4))
        self.progress.note(f"{self.title} step {step}: samples, {seconds:.1f} s\n{text}")

    def inexact(self, text: str, why: str, step: int) -> None:
        """Show and record that the bits may differ from now on."""
        self.journal.add("inexact", step=step, why=why)
        self.note(text)

    def died(self, cause: str, is_memory: bool) -> None:
        """Show and record the death of a worker."""
        self.journal.add("death", cause=cause, memory=is_memory, step=self.state.retry.step)
        self.note(f"the worker died ({cause})")

    @property
    def is_status_due(self) -> bool:
        """Whether the status has become old."""
        return time.monotonic() - self._status_written > STATUS_SECONDS

    def write_status(self, state: str, meter: PeakMeter, event: Step | None = None) -> None:
        """Write down how far the run is, for other processes."""
        self._status_written = time.monotonic()
        status = Status(
            title=self.title,
            state=state,
            process=os.getpid(),
            step=self.state.segment.step,
            num_steps=self.num_steps,
            seconds_per_step=event.seconds if event else 0.0,
            tokens_per_second=event.tokens_per_second if event else 0.0,
            footprint_bytes=meter.last.footprint_bytes,
            peak_footprint_bytes=meter.peak.footprint_bytes,
            peak_resident_bytes=meter.peak.peak_resident_bytes,
            limit_bytes=self.state.limit_bytes,
            reloads=self.journal.tally().reloads,
            unix_seconds=time.time(),
        )
        with contextlib.suppress(OSError):  # a full disk; the training does not depend on it
            status.write(self.folder)

    def facts(self) -> dict[str, Any]:
        """Return the metrics of the whole run that its supervisor knows."""
        tally, prediction = self.journal.tally(), self.state.prediction
        predicted = (
            {
                "predicted_peak_memory_bytes": prediction.peak_bytes,
                "memory_floor_bytes": prediction.floor_bytes,
            }
            if prediction
            else {}
        )
        return {
            "reloads": tally.reloads,
            "recoveries": tally.recoveries,
            "reload_seconds": tally.reload_seconds,
            "inexact": list(tally.inexact),
            "memory_limit_bytes": self.state.limit_bytes,
            "leak_bytes_per_step": max(self.state.leaks, default=None),
            **predicted,
        }
