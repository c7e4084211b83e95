"""What workers tell their supervisor: shown, written down, and kept for the metrics of the run."""

import contextlib
import os
import time
from typing import Any

from pipeline import errors
from pipeline.console import TrainingProgress
from pipeline.train.protocol import Message
from pipeline.train.supervise.journal import Journal
from pipeline.train.supervise.retry import Attempts
from pipeline.train.supervise.settings import Segment, SupervisorSettings
from pipeline.train.supervise.status import Status
from pipeline.train.supervise.workers import Crew

STATUS_SECONDS = 1.0


class Events:
    """Takes one message of a worker after the other, and knows what has been told so far.

    Args:
        title: names the run.
        num_steps: how many there will be.
        settings: when workers are to be replaced.
        crew: the workers; one that will be wanted soon is started early.
        journal: of the run.
        attempts: told of every step that is made.
        limit_bytes: what the run may hold.
    """

    def __init__(
        self,
        title: str,
        num_steps: int,
        settings: SupervisorSettings,
        crew: Crew,
        journal: Journal,
        attempts: Attempts,
        limit_bytes: int,
    ) -> None:
        self.title, self.num_steps, self.settings = title, num_steps, settings
        self.crew, self.journal, self.attempts = crew, journal, attempts
        self.limit_bytes = limit_bytes
        self.progress = TrainingProgress(title, num_steps)
        self.reload_began: float | None = None
        self.leaks: list[float] = []
        self.prediction: dict[str, int] = {}
        self._status_written = 0.0

    def take(self, segment: Segment, event: Message) -> None:
        """Take a message of the worker of a segment."""
        segment.last_heard = time.monotonic()
        getattr(self, f"on_{event.pop('event')}")(segment, event)

    def note(self, text: str) -> None:
        """Show a line to the person who waits."""
        self.progress.note(f"{self.title}: {text}")

    def facts(self) -> dict[str, Any]:
        """Give what is known of the whole run."""
        tally = self.journal.tally()
        return {
            "reloads": tally.reloads,
            "recoveries": tally.recoveries,
            "reload_seconds": tally.reload_seconds,
            "inexact": list(tally.inexact),
            "memory_limit_bytes": self.limit_bytes,
            "leak_bytes_per_step": max(self.leaks, default=None),
            **self.prediction,
        }

    def on_ready(self, segment: Segment, event: Message) -> None:
        """Say once what computes."""
        del segment
        if self.attempts.farthest_step < 0:
            self.note(f"{event['device']}")

    def on_beat(self, segment: Segment, event: Message) -> None:
        """Nothing but a sign of life."""

    def on_note(self, segment: Segment, event: Message) -> None:
        """Show what the worker has to say."""
        del segment
        self.note(f"{event['text']}")

    def on_plan(self, segment: Segment, event: Message) -> None:
        """Keep what is predicted, to stand beside what will be measured."""
        del segment
        self.prediction = {
            "predicted_peak_memory_bytes": event["peak_bytes"],
            "memory_floor_bytes": event["floor_bytes"],
        }

    def on_started(self, segment: Segment, event: Message) -> None:
        """Write down how a segment came to be."""
        step = segment.step = event["step"]
        segment.phase = "stepping"
        if event["changed"]:
            self.journal.add("inexact", step=step, why="; ".join(event["changed"]))
            self.note(f"going on inexactly: {event['changed']}")
        if self.reload_began is not None:
            seconds = time.monotonic() - self.reload_began
            self.journal.add("reload", step=step, seconds=round(seconds, 4))
            self.reload_began = None
        elif self.journal.entries():
            self.journal.add("recovery", step=step)
            self.note(f"resuming after step {step}")
        else:
            self.journal.add("start")
        self.progress.start_at(step)
        self.attempts.got_to(step)

    def on_step(self, segment: Segment, event: Message) -> None:
        """Show a step."""
        step = segment.step = event["step"]
        self.progress.step(
            step, float(event["train_loss"]), event["tokens_per_second"], event["footprint_bytes"]
        )
        self.attempts.got_to(step)
        if time.monotonic() - self._status_written > STATUS_SECONDS:
            self.write_status(step, "running", event)
        if self.reload_is_ahead(step):
            self.crew.start_standby(segment.worker)

    def on_validated(self, segment: Segment, event: Message) -> None:
        """Show a validation."""
        del segment
        text = f"{self.title} step {event['step']}: val_loss {event['val_loss']:.4f}"
        self.progress.note(text)

    def on_forecast(self, segment: Segment, event: Message) -> None:
        """Warn of memory that grows; have a worker ready."""
        self.note(f"{event['text']}")
        self.crew.start_standby(segment.worker)

    def on_ending(self, segment: Segment, event: Message) -> None:
        """The last step of a segment is done; what comes until the next one is its price."""
        segment.phase = "ending"
        if event["reason"] in ("interval", "memory"):
            self.reload_began = time.monotonic()

    def on_finishing(self, segment: Segment, event: Message) -> None:
        """All steps are done."""
        del event
        segment.phase = "finishing"

    def on_result(self, segment: Segment, event: Message) -> None:
        """Keep the metrics."""
        segment.metrics = event["metrics"]

    def on_ended(self, segment: Segment, event: Message) -> None:
        """The worker has done its part."""
        segment.reason = event["reason"]
        if event["leak_bytes_per_step"] is not None:  # else it was too short to tell
            self.leaks.append(event["leak_bytes_per_step"])

    def on_error(self, segment: Segment, event: Message) -> None:
        """Something the user can mend: no other worker would do better."""
        segment.error = getattr(errors, event["kind"])(event["text"])

    def on_failed(self, segment: Segment, event: Message) -> None:
        """Something else went wrong; another worker may do better."""
        segment.cause, segment.is_memory = event["text"], event["memory"]

    def reload_is_ahead(self, step: int) -> bool:
        """Tell whether another worker will be wanted before the run is done."""
        interval = self.settings.reload_interval_steps
        if self.settings.reload_memory_threshold_gb is not None:
            return step < self.num_steps
        return bool(interval) and (step // interval + 1) * interval < self.num_steps

    def write_status(self, step: int, state: str, event: Message | None = None) -> None:
        """Write down how far the run is, for other processes."""
        self._status_written = time.monotonic()
        facts = event or {"seconds": 0.0, "tokens_per_second": 0.0}
        status = Status(
            title=self.title,
            state=state,
            process=os.getpid(),
            step=step,
            num_steps=self.num_steps,
            seconds_per_step=facts["seconds"],
            tokens_per_second=facts["tokens_per_second"],
            footprint_bytes=self.crew.footprint_bytes(),
            limit_bytes=self.limit_bytes,
            reloads=self.journal.tally().reloads,
            unix_seconds=time.time(),
        )
        with contextlib.suppress(OSError):  # a full disk; the training does not depend on it
            status.write(self.crew.folder)
