"""The supervisor: keeps a run going in one worker process after another until it is done.

A worker trains a segment and ends: because the run is done, because another process is to go on
(`train.reload_interval_steps`, or memory), or because something killed it. What counts is on the
disk, so that all of these end in the same bits. Only a parent process can promise that: MLX cannot
report a failed allocation on a CPU, and none of its limits is hard.
"""

import contextlib
import os
import signal
import time
from typing import Any

from pipeline import errors
from pipeline.console import TrainingProgress
from pipeline.errors import DeviceError, Stopped, WorkerError
from pipeline.machine import footprint_bytes
from pipeline.train.ancestor import Ancestor
from pipeline.train.attempts import Attempts
from pipeline.train.channel import Message
from pipeline.train.journal import Journal
from pipeline.train.launch import WorkerProcess, exit_text, is_memory_death
from pipeline.train.memory import GB, memory_limit_bytes
from pipeline.train.runs import RunFolder
from pipeline.train.segment import Segment, SupervisorSettings
from pipeline.train.signals import StopSignals
from pipeline.train.status import Status
from pipeline.train.task import Task

POLL_SECONDS = 0.1
STATUS_SECONDS = 1.0


class Supervisor:
    """Runs a task to its end."""

    def __init__(
        self, task: Task, num_steps: int, settings: SupervisorSettings, run: RunFolder
    ) -> None:
        self.task, self.num_steps, self.settings, self.run = task, num_steps, settings, run
        self.journal = Journal(run.path)
        self.limit_bytes = memory_limit_bytes(settings.memory_limit_gb)
        self.signals, self.attempts = StopSignals(), Attempts()
        self.standby: WorkerProcess | None = None
        self.segment: Segment | None = None
        self.ancestor = Ancestor.of_dvc()
        self.reload_began: float | None = None
        self.leak_bytes_per_step = 0.0
        self.prediction: dict[str, int] = {}
        self.is_plan = False
        self._status_written = 0.0

    def train(self) -> dict[str, Any]:
        """Train to the end; give the metrics of the run.

        Raises:
            Stopped: after a signal; starting again goes on.
            WorkerError: when worker after worker dies without getting on.
            PipelineError: what a worker found wrong with the task.
        """
        if not self.is_plan:
            self.run.choose_start(self.settings.resume)
        self.task.write()
        self.progress = TrainingProgress(self.task.title, self.num_steps)
        with self.signals, self.progress:
            try:
                while (metrics := self.next_segment()) is None:
                    pass
            finally:
                self.end_workers()
        return {**metrics, **self.facts()}

    def plan(self) -> str:
        """Predict what the run would take, and end; give that as text.

        Raises:
            DeviceError: when it cannot fit, with what would.
        """
        self.is_plan = True
        found = self.train()
        if found["problem"]:
            raise DeviceError(f"{found['text']}\n{found['problem']}")
        return found["text"]

    def facts(self) -> dict[str, Any]:
        """Give what the journal knows of the whole run."""
        tally = self.journal.tally()
        return {
            "reloads": tally.reloads,
            "recoveries": tally.recoveries,
            "reload_seconds": tally.reload_seconds,
            "inexact": list(tally.inexact),
            "memory_limit_bytes": self.limit_bytes,
            "leak_bytes_per_step": self.leak_bytes_per_step,
            **self.prediction,
        }

    def refuse_to_go_on(self) -> None:
        """End the run if a signal has asked for it.

        Raises:
            Stopped: saying where the run stands.
        """
        number = self.signals.number
        if number is None:
            return
        self.journal.add("stop", step=self.attempts.step, signal=number)
        raise Stopped(
            f"{self.task.title} was stopped by {signal.Signals(number).name} after step "
            f"{self.attempts.step} of {self.num_steps}; start it again to go on.",
            number,
        )

    def end_workers(self) -> None:
        """Leave no process behind."""
        for worker in (self.segment.worker if self.segment else None, self.standby):
            if worker is not None:
                worker.kill()
        self.segment = self.standby = None

    def next_segment(self) -> dict[str, Any] | None:
        """Run one worker to its end; give the metrics if that was the end of the run."""
        try:
            worker = self.take_worker()
        except OSError as error:
            self.after_death(f"no worker could be started ({error})", is_memory=False)
            return None
        self.segment = Segment(worker, time.monotonic())
        worker.order("go", **self.orders())
        status = self.follow(self.segment)
        segment, self.segment = self.segment, None
        if segment.error:
            raise segment.error
        if segment.reason == "done":
            return segment.metrics
        self.refuse_to_go_on()
        if segment.reason is None:
            is_memory = segment.is_memory or (not segment.cause and is_memory_death(status))
            self.after_death(segment.cause or exit_text(status), is_memory)
        return None

    def take_worker(self) -> WorkerProcess:
        """Take the stand-by where there is one, else start a worker."""
        standby, self.standby = self.standby, None
        if standby is not None and standby.process.poll() is None:
            return standby
        return WorkerProcess(self.task, self.run.lock.descriptor)

    def orders(self) -> dict[str, Any]:
        """Say how the next worker is to train."""
        threshold = self.settings.reload_memory_threshold_gb
        return {
            "reloads": self.journal.tally().reloads + (self.reload_began is not None),
            "limit_bytes": self.limit_bytes,
            "threshold_bytes": None if threshold is None else int(threshold * GB),
            "interval_steps": self.settings.reload_interval_steps,
            "allow_inexact": self.settings.resume_allow_inexact,
            "num_splits": self.attempts.num_splits,
            "deaths": len(self.attempts.causes),
            "plan": "only" if self.is_plan else "none" if self.prediction else "check",
        }

    def follow(self, segment: Segment) -> int:
        """Listen to a worker until it is gone; end it where it hangs or holds too much.

        Returns:
            Its exit status.
        """
        told = False
        while segment.worker.is_open:
            for event in segment.worker.events(POLL_SECONDS):
                segment.last_heard = time.monotonic()
                getattr(self, f"on_{event.pop('event')}")(segment, event)
            self.look_after(segment)
            if self.ancestor is not None and self.ancestor.is_gone():
                self.signals.number = self.signals.number or signal.SIGHUP
            if self.signals.number is not None and not told:
                told = True
                self.ask_to_stop(segment)
        return segment.worker.wait()

    def look_after(self, segment: Segment) -> None:
        """Kill a worker that is silent for too long, or holds more memory than there may be."""
        silent = time.monotonic() - segment.last_heard
        if silent > self.settings.hang_timeout_seconds:
            segment.cause = f"silent for {silent:.0f} s after step {segment.step}"
            segment.worker.process.kill()
        held = self.footprint_bytes()
        if held > self.limit_bytes:
            segment.cause = (
                f"held {held / GB:.3f} GB after step {segment.step}, "
                f"limit {self.limit_bytes / GB:.3f} GB"
            )
            segment.is_memory = True
            segment.worker.process.kill()

    def footprint_bytes(self) -> int:
        """Measure supervisor, worker and stand-by together."""
        workers = [self.segment.worker if self.segment else None, self.standby]
        return footprint_bytes() + sum(worker.footprint_bytes() for worker in workers if worker)

    def ask_to_stop(self, segment: Segment) -> None:
        """Let a worker finish its step and save; end one that has no steps to lose."""
        self.progress.note(f"{self.task.title}: stopping; a second signal ends it at once")
        if segment.phase in ("stepping", "ending"):
            self.write_status(segment.step, "stopping")
            segment.worker.order("stop")
        else:
            segment.worker.process.kill()

    def on_ready(self, segment: Segment, event: Message) -> None:
        """Say once what computes."""
        del segment
        if self.attempts.farthest_step < 0:
            self.progress.note(f"{self.task.title}: {event['device']}")

    def on_beat(self, segment: Segment, event: Message) -> None:
        """Nothing but a sign of life."""

    def on_note(self, segment: Segment, event: Message) -> None:
        """Show what the worker has to say."""
        del segment
        self.progress.note(f"{self.task.title}: {event['text']}")

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
            self.progress.note(f"{self.task.title}: going on inexactly: {event['changed']}")
        if self.reload_began is not None:
            seconds = time.monotonic() - self.reload_began
            self.journal.add("reload", step=step, seconds=round(seconds, 4))
            self.reload_began = None
        elif self.journal.entries():
            self.journal.add("recovery", step=step)
            self.progress.note(f"{self.task.title}: resuming after step {step}")
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
        if self.standby is None and self.reload_is_ahead(step):
            self.start_standby(segment)

    def on_validated(self, segment: Segment, event: Message) -> None:
        """Show a validation."""
        del segment
        text = f"{self.task.title} step {event['step']}: val_loss {event['val_loss']:.4f}"
        self.progress.note(text)

    def on_forecast(self, segment: Segment, event: Message) -> None:
        """Warn of memory that grows; have a worker ready."""
        self.progress.note(f"{self.task.title}: {event['text']}")
        if self.standby is None:
            self.start_standby(segment)

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
        self.leak_bytes_per_step = max(self.leak_bytes_per_step, event["leak_bytes_per_step"])

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

    def start_standby(self, segment: Segment) -> None:
        """Start the next worker early, so that it has imported everything when it is needed."""
        with contextlib.suppress(OSError):  # without one a reload only takes longer
            self.standby = WorkerProcess(self.task, self.run.lock.descriptor)
            segment.worker.order("standby", pid=self.standby.pid)

    def write_status(self, step: int, state: str, event: Message | None = None) -> None:
        """Write down how far the run is, for other processes."""
        self._status_written = time.monotonic()
        facts = event or {"seconds": 0.0, "tokens_per_second": 0.0}
        status = Status(
            title=self.task.title,
            state=state,
            process=os.getpid(),
            step=step,
            num_steps=self.num_steps,
            seconds_per_step=facts["seconds"],
            tokens_per_second=facts["tokens_per_second"],
            footprint_bytes=self.footprint_bytes(),
            limit_bytes=self.limit_bytes,
            reloads=self.journal.tally().reloads,
            unix_seconds=time.time(),
        )
        with contextlib.suppress(OSError):  # a full disk; the training does not depend on it
            status.write(self.run.path)

    def after_death(self, cause: str, is_memory: bool) -> None:
        """Decide what becomes of a run whose worker has died.

        Raises:
            Stopped: when a signal comes meanwhile.
            WorkerError: when it has died too often without getting on.
        """
        attempts, title = self.attempts, self.task.title
        self.reload_began = None
        attempts.died(cause, is_memory)
        self.journal.add("death", cause=cause, memory=is_memory, step=attempts.step)
        self.progress.note(f"{title}: the worker died ({cause})")
        if attempts.are_used_up:
            raise WorkerError(attempts.diagnosis(title, str(self.run.path)))
        if self.settings.shrink_on_oom and attempts.want_smaller_steps:
            attempts.split_micro_batches()
            why = f"micro-batches split into {attempts.num_splits} after memory ran out"
            self.journal.add("inexact", step=attempts.step, why=why)
            self.progress.note(f"{title}: {why}; the bits are no longer those of other runs")
        end = time.monotonic() + attempts.pause_seconds
        while time.monotonic() < end:
            self.refuse_to_go_on()
            time.sleep(POLL_SECONDS)
