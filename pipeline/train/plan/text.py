"""The plan as a person reads it: what is trained, its memory, whether it fits, its time."""

from dataclasses import dataclass

from pipeline.train.memory import GB
from pipeline.train.plan.graph import StagePlan
from pipeline.train.plan.report import Plan

MINUTE, HOUR, DAY = 60, 3600, 86400
WITHOUT_ROWS = (
    "No rows are prepared for this, so all are taken to be as long as allowed (data.max_seq_len)."
)


@dataclass(frozen=True)
class Subject:
    """What the plan is about.

    Attributes:
        model: its name and size.
        training: mode, optimizer and learning rate.
        step: documents of a step, and the number of steps.
        are_rows_known: whether rows are prepared.
    """

    model: str
    training: str
    step: str
    are_rows_known: bool


@dataclass(frozen=True)
class Times:
    """How long it takes, in seconds; None where that is not known.

    Attributes:
        num_steps: of the training.
        step: one of them.
        num_validations: in the training.
        validation: one of them.
        start: of a process.
        last: what is measured at the end.
        tokens_per_second: of the steps, padding not counted.
        stages: whole stages, by name.
    """

    num_steps: int
    step: float
    num_validations: int
    validation: float
    start: float
    last: float
    tokens_per_second: float
    stages: dict[str, float]

    @property
    def total(self) -> float:
        """The whole training."""
        steps = self.num_steps * self.step + self.num_validations * self.validation
        return self.start + steps + self.last


def plan_text(
    subject: Subject, plan: Plan, others_bytes: int, verdict: str, times: Times | None
) -> str:
    """Describe the plan of a training.

    Args:
        subject: what is trained.
        plan: of its memory.
        others_bytes: what the processes hold that do not train.
        verdict: whether it fits.
        times: None where they are not known.
    """
    rows = memory_rows(plan, others_bytes)
    width = max(len(name) for name, _, _ in rows)
    lines = [
        f"  {name:<{width}}  {size / GB:>8.3f} GB  {note}".rstrip() for name, size, note in rows
    ]
    notes = [] if subject.are_rows_known else [WITHOUT_ROWS]
    if plan.problem:
        notes.append(f"The memory is only an estimate by formula: {plan.problem}")
    return "\n".join(
        [
            subject.model,
            subject.training,
            subject.step,
            *notes,
            "",
            *lines,
            "",
            verdict,
            time_line(times, subject.are_rows_known),
        ]
    )


def memory_rows(plan: Plan, others_bytes: int) -> list[tuple[str, int, str]]:
    """List six rows: four parts of a step, the peak, and what the processes hold in the end."""
    size = {row.name: row.num_bytes for row in plan.rows}
    trained, batch = plan.shape.num_trainable, plan.request
    micro = f"{batch.num_micro_batches} micro-batches" if batch.num_micro_batches > 1 else "a step"
    return [
        ("weights", size["weights"], "of the base"),
        (
            "trained weights, optimizer",
            size["trained weights"] + size["optimizer"],
            f"{trained:,} weights, {batch.optim.name}",
        ),
        (
            "activations",
            size["activations"] + size["score matrices"],
            f"{batch.rows} x {batch.width} tokens, the largest of {micro}",
        ),
        ("gradients, working memory", size["gradients, working memory"], ""),
        ("peak of MLX", plan.peak_bytes, plan.peak_phase),
        (
            "footprint",
            plan.footprint_bytes + others_bytes,
            "with MLX's cache, the process and its supervisor",
        ),
    ]


def time_line(times: Times | None, are_rows_known: bool) -> str:
    """Describe how long the training takes."""
    if times is None:
        return "How long it takes cannot be told here: the last blocks could not be timed."
    bound = "" if are_rows_known else "at most "
    if not times.num_steps:
        return (
            f"A step takes {bound}{duration(times.step)}; how many train.num_epochs makes depends "
            "on the rows."
        )
    return (
        f"It takes {bound}{duration(times.total)}: {times.num_steps:,} steps of "
        f"{duration(times.step)} ({times.tokens_per_second:,.0f} tokens/s), "
        f"{times.num_validations} validations of {duration(times.validation)}."
    )


def stage_lines(stages: list[StagePlan], times: Times | None, verbose: bool) -> list[str]:
    """List the stages with memory, disk and time; where asked for, how memory is computed."""
    lines = ["stage          memory         disk  time"]
    known = times.stages if times else {}
    for stage in stages:
        time = duration(known[stage.name]) if stage.name in known else ""
        line = (
            f"{stage.name:<9}  {stage.memory_bytes / GB:>7.3f} GB  {stage.disk_bytes / GB:>8.3f} GB"
            f"  {time}"
        )
        lines.append(line.rstrip())
        if verbose:
            lines.append(f"  {stage.arithmetic}")
    return lines


def duration(seconds: float) -> str:
    """Write a time with two units at most."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    if seconds < HOUR:
        return f"{seconds / MINUTE:.0f} min"
    if seconds < DAY:
        return "{} h {} min".format(*divmod(round(seconds / MINUTE), 60))
    return "{} d {} h".format(*divmod(round(seconds / HOUR), 24))
