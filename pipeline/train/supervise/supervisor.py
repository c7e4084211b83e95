"""The supervisor: keeps a run going in one worker process after another until it is done.

A worker trains a segment and exits: because the run is done, because another process is to take
over (`train.reload_interval_steps`, or memory), or because something killed it. The state is on
the disk, so that all of these end in the same bits. Only a parent process can promise that: MLX
cannot report a failed allocation on a CPU, and none of its limits is hard.
"""

import signal
import time
from contextlib import nullcontext
from typing import Any

from pipeline import errors
from pipeline.errors import DeviceError, Stopped, WorkerError
from pipeline.machine import PeakMeter, footprint_bytes
from pipeline.train.memory import GB, memory_limit_bytes
from pipeline.train.protocol import (
    Ended,
    Ending,
    Event,
    Failed,
    Finishing,
    Go,
    Heartbeat,
    Note,
    Planned,
    Ready,
    Refused,
    ReloadAhead,
    Result,
    RunSpec,
    Started,
    Step,
    Stop,
    Validated,
)
from pipeline.train.supervise.events import Events
from pipeline.train.supervise.run_folder import RunFolder
from pipeline.train.supervise.run_state import RunState, Segment
from pipeline.train.supervise.samples import Samples, SamplesError
from pipeline.train.supervise.settings import SupervisorSettings
from pipeline.train.supervise.signals import StopSignals
from pipeline.train.supervise.status import Status
from pipeline.train.supervise.workers import Worker, Workers, exit_text, is_memory_death

POLL_SECONDS = 0.1


class Supervisor:
    """Keeps a run going to its end."""

    def __init__(
        self,
        spec: RunSpec,
        num_steps: int,
        settings: SupervisorSettings,
        run: RunFolder,
        meter: PeakMeter,
    ) -> None:
        """Set up a run.

        Args:
            spec: of the run.
            num_steps: how many steps it has.
            settings: of the supervisor.
            run: the folder of the run, locked.
            meter: measures this process now, and the workers too while they run.
        """
        self.meter = meter
        self.spec, self.num_steps, self.settings, self.run = spec, num_steps, settings, run
        self.state = RunState(memory_limit_bytes(settings.memory_limit_gb))
        self.events = Events(spec.title, num_steps, run.path, self.state)
        self.workers = Workers(spec, run.lock.descriptor)
        self.samples = Samples(spec.file, settings, self.state.limit_bytes, meter)
        self.signals = StopSignals()
        self.is_plan = False

    def train(self) -> dict[str, Any]:
        """Train to the end, and return the metrics of the run.

        Raises:
            Stopped: after a signal; the next start resumes.
            WorkerError: when worker after worker dies without progress.
            PipelineError: what a worker found wrong with the run.
        """
        if not self.is_plan:
            self.run.choose_start(self.settings.resume)
            self.meter.go_on_from(Status.peak_of(self.run.path))
        self.spec.write()
        bar = nullcontext() if self.is_plan else self.events.progress
        with self.signals, bar, self.meter.including(self.pids):
            self.name_near_run()
            try:
                while (metrics := self.next_segment()) is None:
                    pass
            finally:
                self.workers.end()
        return {**metrics, **self.events.facts()}

    def pids(self) -> list[int]:
        """List the other processes of the run, from any thread."""
        return [*self.workers.pids(), *self.samples.pids()]

    def plan(self) -> str:
        """Predict what the run would take, and return that as text."""
        self.is_plan = True
        return self.train()["text"]

    def name_near_run(self) -> None:
        """Name the run that this one is nearly identical to, when this one begins."""
        if not self.is_plan and not self.events.journal.entries():
            text = self.run.near_run()
            if text:
                self.events.note(text)

    def next_segment(self) -> dict[str, Any] | None:
        """Run one worker to its end; return the metrics if that was the end of the run."""
        try:
            worker = self.workers.next_worker()
        except OSError as error:
            self.after_death(f"no worker could be started ({error})", is_memory=False)
            return None
        segment = self.state.segment = Segment()
        worker.send(self.go())
        status = self.follow(worker)
        self.workers.release()
        if segment.error:
            raise segment.error
        if segment.reason == "done":
            return segment.metrics
        self.raise_if_stopped()
        if segment.reason is None:
            is_memory = segment.is_memory or (not segment.cause and is_memory_death(status))
            self.after_death(segment.cause or exit_text(status), is_memory)
        elif self.samples.are_due(segment.step):
            self.show_samples(segment.step)
        return None

    def show_samples(self, step: int) -> None:
        """Show what the weights after a step answer, while no worker lives.

        Raises:
            Stopped: when a signal comes meanwhile.
        """
        self.workers.end_standby()
        began = time.monotonic()
        try:
            text = self.samples.generate(lambda: self.signals.number is not None)
        except SamplesError as error:
            self.raise_if_stopped()
            text = f"there are no more samples: {error}; the training goes on"
        self.events.sampled(step, time.monotonic() - began, text)

    def go(self) -> Go:
        """Make the order that starts the next worker."""
        state, settings = self.state, self.settings
        threshold = settings.reload_memory_threshold_gb
        return Go(
            reloads=self.events.journal.tally().reloads + (state.reload_began is not None),
            limit_bytes=state.limit_bytes,
            threshold_bytes=None if threshold is None else int(threshold * GB),
            interval_steps=settings.reload_interval_steps,
            sample_steps=self.samples.interval_steps,
            if_changed=settings.if_changed,
            num_splits=state.retry.num_splits,
            deaths=len(state.retry.causes),
            save_within=state.retry.save_within,
            plan="none" if self.is_plan or state.prediction else "check",
        )

    def follow(self, worker: Worker) -> int:
        """Take the events of a worker until it is gone; kill it where it hangs or holds too much.

        Returns:
            Its exit status.
        """
        is_asked = False
        while worker.is_open:
            for event in worker.events(POLL_SECONDS):
                self.take(event)
            self.kill_if_due(worker)
            if self.signals.number is not None and not is_asked:
                is_asked = True
                self.ask_to_stop(worker)
        return worker.wait()

    def take(self, event: Event) -> None:
        """Act on an event of the worker that trains."""
        state, events = self.state, self.events
        segment = state.segment
        segment.last_heard = time.monotonic()
        match event:
            case Heartbeat():
                pass
            case Ready(device):
                if state.retry.farthest_step < 0:
                    events.note(device)
            case Note(text):
                events.note(text)
            case Planned():
                state.prediction = event
            case Started(step):
                events.started(event)
                state.started(step)
            case Step(step):
                state.stepped(step)
                self.after_step(event)
            case Validated():
                events.validated(event)
            case ReloadAhead(text):
                events.note(text)
                self.workers.start_standby()
            case Ending(step, reason):
                state.ending(step, reason)
            case Finishing():
                segment.phase = "finishing"
            case Result(metrics):
                segment.metrics = metrics
            case Ended(reason, leak_bytes_per_step):
                state.ended(reason, leak_bytes_per_step)
            case Refused(kind, text):
                segment.error = getattr(errors, kind)(text)
            case Failed(text, is_memory):
                segment.cause, segment.is_memory = text, is_memory

    def after_step(self, step: Step) -> None:
        """Show a step, and prepare the change of process that may follow."""
        self.events.stepped(step)
        if self.events.is_status_due:
            self.events.write_status("running", self.meter, step)
        if self.reload_is_ahead(step.step):
            self.workers.start_standby()

    def reload_is_ahead(self, step: int) -> bool:
        """Whether the next worker may be started early, because it will be needed soon.

        None may live while samples are generated.
        """
        if self.samples.are_due(step):
            return False
        if self.settings.reload_memory_threshold_gb is not None:
            return step < self.num_steps
        intervals = self.settings.reload_interval_steps, self.samples.interval_steps
        ends = [(step // interval + 1) * interval for interval in intervals if interval]
        next_end = min(ends, default=self.num_steps)
        return next_end < self.num_steps and not self.samples.are_due(next_end)

    def kill_if_due(self, worker: Worker) -> None:
        """Kill a worker that is silent for too long, or that held more memory than allowed."""
        state, segment = self.state, self.state.segment
        silent = time.monotonic() - segment.last_heard
        if silent > self.settings.hang_timeout_seconds:
            segment.cause = f"silent for {silent:.0f} s after step {segment.step}"
            worker.kill()
        held = self.meter.highest_bytes()
        if held > state.limit_bytes and not self.is_plan:
            if segment.phase == "starting" and not state.prediction:
                segment.error = DeviceError(no_room(state.limit_bytes, footprint_bytes(), held))
            segment.cause = (
                f"held {held / GB:.3f} GB after step {segment.step}, "
                f"limit {state.limit_bytes / GB:.3f} GB"
            )
            segment.is_memory = True
            worker.kill()

    def ask_to_stop(self, worker: Worker) -> None:
        """Order a worker to finish its step and save; kill one that has no steps to lose."""
        self.events.note("stopping; a second signal ends it at once")
        if self.state.segment.phase in ("stepping", "ending"):
            self.events.write_status("stopping", self.meter)
            worker.send(Stop())
        else:
            worker.kill()

    def raise_if_stopped(self) -> None:
        """End the run if a signal has asked for it.

        Raises:
            Stopped: with the step at which the run stands.
        """
        number, step = self.signals.number, self.state.retry.step
        if number is None:
            return
        self.events.journal.add("stop", step=step, signal=number)
        raise Stopped(
            f"{self.spec.title} was stopped by {signal.Signals(number).name} after step {step} of "
            f"{self.num_steps}; start it again to go on.",
            number,
        )

    def after_death(self, cause: str, is_memory: bool) -> None:
        """Decide how a run whose worker has died goes on.

        Raises:
            Stopped: when a signal comes meanwhile.
            WorkerError: when it has died too often without progress.
        """
        retry = self.state.retry
        self.state.died(cause, is_memory)
        self.events.died(cause, is_memory)
        advice = retry.reload_advice(self.settings.reload_interval_steps)
        if advice:
            self.events.note(advice)
        if retry.exhausted:
            raise WorkerError(retry.diagnosis(self.spec.title, str(self.run.path)))
        if self.settings.shrink_on_oom and retry.wants_smaller_steps:
            retry.split_micro_batches()
            why = f"micro-batches split into {retry.num_splits} after memory ran out"
            text = f"{why}; the bits are no longer those of other runs"
            self.events.inexact(text, why, retry.step)
        end = time.monotonic() + retry.pause_seconds
        while time.monotonic() < end:
            self.raise_if_stopped()
            time.sleep(POLL_SECONDS)


def no_room(limit_bytes: int, own_bytes: int, held_bytes: int) -> str:
    """Word the refusal of a limit that processes without a model exceed."""
    return (
        f"{limit_bytes / GB:.3f} GB are allowed (train.memory_limit_gb), and without any model the "
        f"supervisor holds {own_bytes / GB:.3f} GB and a worker, still starting, "
        f"{(held_bytes - own_bytes) / GB:.3f} GB.\n"
        "Give more; `--plan` shows how much the training needs."
    )
