"""The supervisor: keeps a run going in one worker process after another until it is done.

A worker trains a segment and ends: because the run is done, because another process is to go on
(`train.reload_interval_steps`, or memory), or because something killed it. What counts is on the
disk, so that all of these end in the same bits. Only a parent process can promise that: MLX cannot
report a failed allocation on a CPU, and none of its limits is hard.
"""

import signal
import time
from typing import Any

from pipeline.errors import DeviceError, Stopped, WorkerError
from pipeline.machine import footprint_bytes
from pipeline.train.memory import GB, memory_limit_bytes
from pipeline.train.supervise.dvc_parent import Ancestor
from pipeline.train.supervise.events import Events
from pipeline.train.supervise.journal import Journal
from pipeline.train.supervise.launch import exit_text, is_memory_death
from pipeline.train.supervise.retry import Attempts
from pipeline.train.supervise.run_folder import RunFolder
from pipeline.train.supervise.settings import Segment, SupervisorSettings
from pipeline.train.supervise.signals import StopSignals
from pipeline.train.supervise.workers import Crew
from pipeline.train.task import Task

POLL_SECONDS = 0.1


class Supervisor:
    """Runs a task to its end."""

    def __init__(
        self, task: Task, num_steps: int, settings: SupervisorSettings, run: RunFolder
    ) -> None:
        self.task, self.num_steps, self.settings, self.run = task, num_steps, settings, run
        self.journal, self.attempts, self.crew = Journal(run.path), Attempts(), Crew(task, run)
        self.limit_bytes = memory_limit_bytes(settings.memory_limit_gb)
        self.events = Events(
            task.title,
            num_steps,
            settings,
            self.crew,
            self.journal,
            self.attempts,
            self.limit_bytes,
        )
        self.signals, self.ancestor = StopSignals(), Ancestor.of_dvc()
        self.is_plan = False

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
        with self.signals, self.events.progress:
            try:
                while (metrics := self.next_segment()) is None:
                    pass
            finally:
                self.crew.end()
        return {**metrics, **self.events.facts()}

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

    def next_segment(self) -> dict[str, Any] | None:
        """Run one worker to its end; give the metrics if that was the end of the run."""
        try:
            worker = self.crew.next_worker()
        except OSError as error:
            self.after_death(f"no worker could be started ({error})", is_memory=False)
            return None
        segment = Segment(worker, time.monotonic())
        worker.order("go", **self.orders())
        status = self.follow(segment)
        self.crew.release()
        if segment.error:
            raise segment.error
        if segment.reason == "done":
            return segment.metrics
        self.refuse_to_go_on()
        if segment.reason is None:
            is_memory = segment.is_memory or (not segment.cause and is_memory_death(status))
            self.after_death(segment.cause or exit_text(status), is_memory)
        return None

    def orders(self) -> dict[str, Any]:
        """Say how the next worker is to train."""
        threshold = self.settings.reload_memory_threshold_gb
        return {
            "reloads": self.journal.tally().reloads + (self.events.reload_began is not None),
            "limit_bytes": self.limit_bytes,
            "threshold_bytes": None if threshold is None else int(threshold * GB),
            "interval_steps": self.settings.reload_interval_steps,
            "allow_inexact": self.settings.resume_allow_inexact,
            "num_splits": self.attempts.num_splits,
            "deaths": len(self.attempts.causes),
            "plan": "only" if self.is_plan else "none" if self.events.prediction else "check",
        }

    def follow(self, segment: Segment) -> int:
        """Listen to a worker until it is gone; end it where it hangs or holds too much.

        Returns:
            Its exit status.
        """
        told = False
        while segment.worker.is_open:
            for event in segment.worker.events(POLL_SECONDS):
                self.events.take(segment, event)
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
        held = self.crew.footprint_bytes()
        if held > self.limit_bytes:
            if segment.phase == "starting" and not self.events.prediction:
                segment.error = DeviceError(self.no_room(held))
            segment.cause = (
                f"held {held / GB:.3f} GB after step {segment.step}, "
                f"limit {self.limit_bytes / GB:.3f} GB"
            )
            segment.is_memory = True
            segment.worker.process.kill()

    def no_room(self, held: int) -> str:
        """Say that processes hold more than the limit before any model is there."""
        own = footprint_bytes()
        return (
            f"{self.limit_bytes / GB:.3f} GB are allowed (train.memory_limit_gb), and without any "
            f"model the supervisor holds {own / GB:.3f} GB and a worker, still starting, "
            f"{(held - own) / GB:.3f} GB.\n"
            "Give more; `plan_only=true` then says how much the training needs."
        )

    def ask_to_stop(self, segment: Segment) -> None:
        """Let a worker finish its step and save; end one that has no steps to lose."""
        self.events.note("stopping; a second signal ends it at once")
        if segment.phase in ("stepping", "ending"):
            self.events.write_status(segment.step, "stopping")
            segment.worker.order("stop")
        else:
            segment.worker.process.kill()

    def after_death(self, cause: str, is_memory: bool) -> None:
        """Decide what becomes of a run whose worker has died.

        Raises:
            Stopped: when a signal comes meanwhile.
            WorkerError: when it has died too often without getting on.
        """
        attempts = self.attempts
        self.events.reload_began = None
        attempts.died(cause, is_memory)
        self.journal.add("death", cause=cause, memory=is_memory, step=attempts.step)
        self.events.note(f"the worker died ({cause})")
        if attempts.are_used_up:
            raise WorkerError(attempts.diagnosis(self.task.title, str(self.run.path)))
        if self.settings.shrink_on_oom and attempts.want_smaller_steps:
            attempts.split_micro_batches()
            why = f"micro-batches split into {attempts.num_splits} after memory ran out"
            self.journal.add("inexact", step=attempts.step, why=why)
            self.events.note(f"{why}; the bits are no longer those of other runs")
        end = time.monotonic() + attempts.pause_seconds
        while time.monotonic() < end:
            self.refuse_to_go_on()
            time.sleep(POLL_SECONDS)
