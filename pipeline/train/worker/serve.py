"""A worker: a process that trains one segment of a run, tells what happens, and exits.

It is started early: it imports, opens the data and waits, without weights, until it is told to go
on where another process stopped. It never outlives its supervisor.
"""

import logging
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

from pipeline.device import (
    describe_device,
    limit_mlx_memory,
    matmul_flops_per_second,
    mx,
    nn,
)
from pipeline.errors import CheckpointError, DeviceError, PipelineError
from pipeline.machine import die_with_parent, footprint_bytes
from pipeline.train.loop import Trainer
from pipeline.train.memory import GB, MemoryGuard
from pipeline.train.observer import Watch
from pipeline.train.plan.fit import require_fit
from pipeline.train.plan.predict import PlanRequest
from pipeline.train.plan.report import Plan, make_plan
from pipeline.train.protocol import Receiver, Sender
from pipeline.train.report import StepReport
from pipeline.train.supervise.signals import STOPPING
from pipeline.train.task import Task
from pipeline.train.worker.fault_injection import Faults
from pipeline.train.worker.link import Interrupted, NoteHandler, Orders, Post

FORECAST_EVERY_STEPS = 10
ALLOCATION_FAILURES = ("allocate", "out of memory", "Insufficient Memory")


class Run(Protocol):
    """What a kind of run must offer to a worker."""

    def request(self, orders: Orders) -> PlanRequest:
        """Say what is to be trained, for the plan."""
        ...

    def load(self, orders: Orders, watch: Watch) -> Trainer:
        """Load weights, and make a trainer for them."""
        ...

    def finish(self, trainer: Trainer) -> dict[str, Any]:
        """Write what comes out, and give the metrics."""
        ...


def work(
    make: Callable[[Task], Run], task_file: Path, receiver: Receiver, sender: Sender
) -> NoReturn:
    """Be a worker.

    Args:
        make: gets ready for a task, without its weights.
        task_file: what to do.
        receiver: brings orders.
        sender: takes events.
    """
    post = Post(receiver, sender)
    outlive_nobody()
    logging.getLogger().addHandler(NoteHandler(post))
    try:
        task = Task.read(task_file)
        faults = Faults(task.parameters.get("debug"), Path(task.run_folder))
        status = serve(post, make(task), faults)
    except PipelineError as error:
        post.tell("error", kind=type(error).__name__, text=str(error))
        status = 1
    except Exception as error:
        traceback.print_exc()
        post.tell("failed", text=repr(error), memory=is_allocation_failure(error))
        status = 1
    os._exit(status)  # at once: what this process holds is what the next one needs


def outlive_nobody() -> None:
    """Leave signals to the supervisor, and die with it."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()


def is_allocation_failure(error: Exception) -> bool:
    """Tell whether a backend that can say so has run out of memory."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ALLOCATION_FAILURES
    )


def serve(post: Post, run: Run, faults: Faults) -> int:
    """Get ready, wait for the order to go, train a segment, and finish the run if it is the last.

    Returns:
        The exit status.
    """
    warm_up()
    post.tell("ready", device=describe_device())
    post.go.wait()
    assert post.orders is not None
    guard = MemoryGuard(post.orders.limit_bytes, post.orders.threshold_bytes)
    post.reloads, post.limit_bytes = post.orders.reloads, guard.limit_bytes
    post.bound_bytes = guard.bound_bytes
    limit_mlx_memory(guard.limit_bytes)
    if post.orders.plan != "none":
        with post.beats():
            tell_plan(post, run.request(post.orders), guard)
    if post.orders.plan == "only":
        post.tell("ended", reason="done", leak_bytes_per_step=None)
        return 0
    with post.beats():
        trainer = run.load(post.orders, post)
        changed = trainer.restore(post.orders.allow_inexact)
    post.tell("started", step=trainer.progress.step, changed=changed)
    reason = train_segment(trainer, post, guard, faults)
    if reason == "done":
        with post.beats():
            post.tell("finishing")
            post.tell("result", metrics=run.finish(trainer))
    post.tell("ended", reason=reason, leak_bytes_per_step=guard.meter.settled_bytes_per_step)
    return 0


def tell_plan(post: Post, request: PlanRequest, guard: MemoryGuard) -> None:
    """Predict what the run takes, before anything is loaded.

    Raises:
        DeviceError: when that is more than there may be, unless the plan is all that is wanted.
    """
    assert post.orders is not None
    plan = make_plan(request)
    others = post.footprint_bytes() - footprint_bytes()
    if post.orders.plan == "check":
        post.tell("plan", peak_bytes=plan.peak_bytes, floor_bytes=plan.floor_bytes)
        require_fit(plan, guard.limit_bytes, others)
        return
    try:
        require_fit(plan, guard.limit_bytes, others)
        problem = ""
    except DeviceError as error:
        problem = str(error)
    post.tell("result", metrics={"text": plan_text(plan, guard.limit_bytes), "problem": problem})


def plan_text(plan: Plan, limit_bytes: int) -> str:
    """Write a plan for a person: memory, and time by what this machine can multiply."""
    rate = matmul_flops_per_second()
    return (
        f"{plan.table(alternatives=True)}\n"
        f"limit: {limit_bytes / GB:.3f} GB\n"
        f"a step: {plan.flops / GB:,.1f} GFLOP, so at least {plan.step_seconds(rate):.3f} s at "
        f"the {rate / GB:,.0f} GFLOP/s of this machine"
    )


def warm_up() -> None:
    """Run each kind of kernel once, so that the first step need not load them."""
    layer = nn.Linear(8, 8)
    loss_and_grad = nn.value_and_grad(layer, lambda inputs: nn.silu(layer(inputs)).sum())
    mx.eval(loss_and_grad(mx.ones((8, 8))))


def train_segment(trainer: Trainer, post: Post, guard: MemoryGuard, faults: Faults) -> str:
    """Train until the run is done or another process is to go on; say why it ended.

    Returns:
        `done`, `stopped`, `interval` or `memory`; but for the first the state is on the disk.
    """
    try:
        for report in trainer.steps():
            tell_step(trainer, post, guard, report)
            faults.after_step(report.step)
            reason = why_end(trainer, post, guard, report)
            if reason and save_for(trainer, post, reason):
                return reason
    except Interrupted:
        save_for(trainer, post, "stopped")
        return "stopped"
    return "done"


def why_end(trainer: Trainer, post: Post, guard: MemoryGuard, report: StepReport) -> str | None:
    """Tell why this process should end after a step, if it should."""
    assert post.orders is not None
    interval_steps = post.orders.interval_steps
    full = guard.reload_is_due(report.footprint_bytes, report.spike_bytes)
    if trainer.is_over:
        return None
    if post.stop.is_set():
        return "stopped"
    if interval_steps and report.step % interval_steps == 0:
        return "interval"
    return "memory" if full else None


def save_for(trainer: Trainer, post: Post, reason: str) -> bool:
    """Save because the segment ends; tell whether it may.

    A process that is to stop does so also when the disk is full: what it has done since the newest
    checkpoint is done again.
    """
    post.tell("ending", reason=reason, step=trainer.progress.step)
    try:
        saved = trainer.save()
    except CheckpointError as error:
        if reason != "stopped":
            raise
        post.tell("note", text=str(error))
        return True
    return saved or reason == "stopped"


def tell_step(trainer: Trainer, post: Post, guard: MemoryGuard, report: StepReport) -> None:
    """Tell what a step did, and where memory leads when that is news."""
    post.tell(
        "step",
        step=report.step,
        train_loss=repr(report.result.train_loss),
        tokens_per_second=report.tokens_per_second,
        footprint_bytes=report.footprint_bytes,
        seconds=report.seconds,
    )
    if report.step % FORECAST_EVERY_STEPS == 0:
        text = guard.warning(report.step, trainer.settings.num_steps)
        if text:
            post.tell("forecast", text=text)
