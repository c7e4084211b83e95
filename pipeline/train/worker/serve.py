"""A worker: a process that trains one segment of a run, reports to its supervisor, and exits.

It is started early: it imports, opens the data and waits, without weights, for the order to go on
where another process has stopped. It never outlives its supervisor.
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
    mx,
    nn,
)
from pipeline.errors import CheckpointError, PipelineError
from pipeline.machine import die_with_parent, footprint_bytes
from pipeline.train.finetune import Finetune
from pipeline.train.loop import Trainer
from pipeline.train.memory import MemoryGuard
from pipeline.train.observer import Observer
from pipeline.train.plan.fit import require_fit
from pipeline.train.plan.graph import StagePlan, require_graph_fits
from pipeline.train.plan.report import Plan, make_plan
from pipeline.train.plan.request import PlanRequest
from pipeline.train.pretrain import Pretrain
from pipeline.train.protocol import (
    Ended,
    Ending,
    Failed,
    Finishing,
    Go,
    Planned,
    Ready,
    Receiver,
    Refused,
    ReloadAhead,
    Result,
    RunSpec,
    Sender,
    Started,
    Step,
)
from pipeline.train.report import StepReport
from pipeline.train.supervise.signals import STOPPING
from pipeline.train.worker.fault_injection import FaultInjection
from pipeline.train.worker.link import Interrupted, NoteHandler, SupervisorLink

STEPS_PER_FORECAST = 10
ALLOCATION_FAILURES = ("allocate", "out of memory", "Insufficient Memory", "Resource limit (")
"""What backends of MLX say; the last one of Metal, which holds so many buffers at most."""


class Run(Protocol):
    """A kind of run, as a worker does it."""

    def request(self, go: Go) -> PlanRequest:
        """Describe what is to be trained, for the plan."""
        ...

    def graph(self, plan: Plan, others_bytes: int, go: Go) -> list[StagePlan]:
        """Plan the stages of the graph, of which the training is one."""
        ...

    def load(self, go: Go, observer: Observer) -> Trainer:
        """Load the weights, and make a trainer for them."""
        ...

    def finish(self, trainer: Trainer) -> dict[str, Any]:
        """Write the results, and return the metrics."""
        ...


RUNS: dict[str, Callable[[RunSpec], Run]] = {"finetune": Finetune, "pretrain": Pretrain}
"""Each kind of run opens its data when it is made; it loads no weights yet."""
PLAN = "plan"
"""The kind of a run that is only planned."""


def work(spec_file: Path, receiver: Receiver, sender: Sender) -> NoReturn:
    """Be a worker of the run that a file specifies, then exit."""
    link = SupervisorLink(receiver, sender)
    die_with_supervisor()
    logging.getLogger().addHandler(NoteHandler(link))
    try:
        serve(link, RunSpec.read(spec_file))
        status = 0
    except PipelineError as error:
        link.send(Refused(type(error).__name__, str(error)))
        status = 1
    except Exception as error:
        traceback.print_exc()
        link.send(Failed(repr(error), is_allocation_failure(error)))
        status = 1
    os._exit(status)  # at once: the next process needs the memory that this one holds


def die_with_supervisor() -> None:
    """Leave signals to the supervisor, and end when it ends."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()


def is_allocation_failure(error: Exception) -> bool:
    """Whether an error says that memory has run out; not every backend raises one."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ALLOCATION_FAILURES
    )


def serve(link: SupervisorLink, spec: RunSpec) -> None:
    """Open the data, wait for the order to go, and train a segment of the run."""
    if spec.kind == PLAN:
        foresee(link, spec)
        return
    run = RUNS[spec.kind](spec)
    warm_up()
    link.send(Ready(describe_device()))
    go, guard = link.wait_for_go()
    limit_mlx_memory(guard.limit_bytes)
    if go.plan != "none":
        with link.keep_alive():
            check_plan(link, run, go, guard)
    train(link, spec, run, go, guard)


def foresee(link: SupervisorLink, spec: RunSpec) -> None:
    """Wait for the order to go, and answer with the plan of a run; nothing is trained."""
    from pipeline.train.plan.answer import answer  # what no training needs

    warm_up()
    link.send(Ready(describe_device()))
    _, guard = link.wait_for_go()
    with link.keep_alive():
        others = link.footprint_bytes() - footprint_bytes()
        link.send(Result(answer(spec, guard.limit_bytes, others)))
    link.send(Ended("done", None))


def train(link: SupervisorLink, spec: RunSpec, run: Run, go: Go, guard: MemoryGuard) -> None:
    """Train a segment from the newest checkpoint on, and write the results if it is the last."""
    with link.keep_alive():
        trainer = run.load(go, link)
        changed = trainer.restore(spec.code, go.if_changed)
    link.send(Started(trainer.progress.step, changed))
    faults = FaultInjection(spec.parameters.get("debug"), Path(spec.run_folder))
    reason = train_segment(trainer, link, guard, go, faults)
    if reason == "done":
        with link.keep_alive():
            link.send(Finishing())
            link.send(Result(run.finish(trainer)))
    link.send(Ended(reason, guard.meter.settled_bytes_per_step))


def check_plan(link: SupervisorLink, run: Run, go: Go, guard: MemoryGuard) -> None:
    """Predict what the run and the other stages take, and refuse what cannot fit.

    Args:
        link: to the supervisor.
        run: what is to be trained.
        go: the order.
        guard: of the memory that is granted.

    Raises:
        DeviceError: where it does not fit into memory.
        StorageError: where it does not fit onto a disk.
    """
    plan = make_plan(run.request(go))
    others = link.footprint_bytes() - footprint_bytes()
    link.send(Planned(plan.peak_bytes, plan.floor_bytes))
    stages = run.graph(plan, others, go)
    require_fit(plan, guard.limit_bytes, others)
    require_graph_fits(stages, guard.limit_bytes)


def warm_up() -> None:
    """Run each kind of kernel once, so that the first step need not load them."""
    layer = nn.Linear(8, 8)
    loss_and_grad = nn.value_and_grad(layer, lambda inputs: nn.silu(layer(inputs)).sum())
    mx.eval(loss_and_grad(mx.ones((8, 8))))


def train_segment(
    trainer: Trainer,
    link: SupervisorLink,
    guard: MemoryGuard,
    go: Go,
    faults: FaultInjection,
) -> str:
    """Train until the run is done or another process is to take over.

    Returns:
        `done`, `stopped`, `interval` or `memory`; except for `done`, the state is on the disk.
    """
    try:
        for report in trainer.steps():
            send_step(trainer, link, guard, report)
            faults.after_step(report.step)
            reason = reason_to_end(trainer, link, guard, go, report)
            if reason and save_before_end(trainer, link, reason):
                return reason
    except Interrupted:
        save_before_end(trainer, link, "stopped")
        return "stopped"
    return "done"


def reason_to_end(
    trainer: Trainer,
    link: SupervisorLink,
    guard: MemoryGuard,
    go: Go,
    report: StepReport,
) -> str | None:
    """Return why this process should end after a step; None where it should go on."""
    is_full = guard.reload_is_due(report.footprint_bytes, report.spike_bytes)
    if trainer.is_over:
        return None
    if link.must_stop:
        return "stopped"
    if go.is_end(report.step):
        return "interval"
    return "memory" if is_full else None


def save_before_end(trainer: Trainer, link: SupervisorLink, reason: str) -> bool:
    """Save because the segment ends; return whether it may end.

    A process that is to stop does so even where the disk is full. The steps since the newest
    checkpoint are then done again.
    """
    link.send(Ending(trainer.progress.step, reason))
    try:
        saved = trainer.save()
    except CheckpointError as error:
        if reason != "stopped":
            raise
        link.note(str(error))
        return True
    return saved or reason == "stopped"


def send_step(
    trainer: Trainer, link: SupervisorLink, guard: MemoryGuard, report: StepReport
) -> None:
    """Send the measurements of a step, and the forecast of memory where that is news."""
    link.send(
        Step(
            report.step,
            report.result.train_loss,
            report.tokens_per_second,
            report.footprint_bytes,
            report.seconds,
        )
    )
    if report.step % STEPS_PER_FORECAST == 0:
        text = guard.warning(report.step, trainer.settings.num_steps)
        if text:
            link.send(ReloadAhead(text))
