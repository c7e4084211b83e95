"""How often workers may die without progress, and what is tried against it."""

from dataclasses import dataclass, field

MAX_ATTEMPTS = 5
BACK_OFF_SECONDS = 0.5
"""Doubled with every attempt after the first, which follows at once."""
MEMORY_DEATHS_BEFORE_SHRINKING = 2


@dataclass
class Retry:
    """Counts the deaths since a run last made progress.

    Attributes:
        farthest_step: the last step that any worker has done; -1 before the first one has started.
        causes: of the deaths since that step.
        memory_deaths: deaths because memory ran out, since the micro-batches were last split.
        num_splits: micro-batches that each micro-batch is split into.
        lived_steps: steps that the last worker that died had made.
        has_advised: whether a person has been told how to change the process before memory runs
            out.
    """

    farthest_step: int = -1
    causes: list[str] = field(default_factory=list)
    memory_deaths: int = 0
    num_splits: int = 1
    lived_steps: int = 0
    has_advised: bool = False

    @property
    def step(self) -> int:
        """The step at which the run stands, for a person."""
        return max(0, self.farthest_step)

    def progressed(self, step: int) -> None:
        """Record progress; earlier deaths no longer count."""
        if step > self.farthest_step:
            self.farthest_step = step
            self.causes, self.memory_deaths = [], 0

    def died(self, cause: str, is_memory: bool, lived_steps: int) -> None:
        """Count the death of a worker that had made so many steps."""
        self.causes.append(cause)
        self.memory_deaths += is_memory
        self.lived_steps = lived_steps

    @property
    def save_within(self) -> int | None:
        """The steps within which a worker must save to get beyond the last one; None: no bound.

        Where each process can make the same number of steps, a longer interval would never save.
        """
        return max(1, self.lived_steps // 2) if self.lived_steps and len(self.causes) > 1 else None

    def reload_advice(self, interval_steps: int) -> str:
        """Word how to change the process before memory runs out, once; empty after that.

        Args:
            interval_steps: `train.reload_interval_steps`.
        """
        is_short = 0 < interval_steps <= self.lived_steps
        if self.has_advised or is_short or not (self.memory_deaths and self.lived_steps):
            return ""
        self.has_advised = True
        return (
            f"memory may have run out after {self.lived_steps} steps of one process; "
            f"train.reload_interval_steps={max(1, self.lived_steps // 2)} would start another one "
            "before that, to the same bits"
        )

    @property
    def exhausted(self) -> bool:
        """Whether no attempt is left."""
        return len(self.causes) >= MAX_ATTEMPTS

    @property
    def wants_smaller_steps(self) -> bool:
        """Whether memory has run out more than once."""
        return self.memory_deaths >= MEMORY_DEATHS_BEFORE_SHRINKING

    def split_micro_batches(self) -> None:
        """Halve the micro-batches; a step keeps its documents."""
        self.num_splits *= 2
        self.memory_deaths = 0

    @property
    def pause_seconds(self) -> float:
        """How long to wait before the next attempt."""
        return BACK_OFF_SECONDS * 2 ** (len(self.causes) - 2) if len(self.causes) > 1 else 0.0

    def diagnosis(self, title: str, folder: str) -> str:
        """Describe the deaths and the remedy, for a person."""
        remedy = (
            "Make steps smaller (more train.grad_accumulation_steps, train.grad_checkpoint=true, "
            "shorter data.max_seq_len), or set train.shrink_on_oom=true."
            if self.memory_deaths
            else "Look at what the workers printed above."
        )
        return "\n".join(
            [
                f"{title}: {len(self.causes)} workers have died without getting beyond "
                f"step {self.step}:",
                *(f"  {number}. {cause}" for number, cause in enumerate(self.causes, 1)),
                f"The state is intact in {folder}; starting again goes on from there.",
                remedy,
            ]
        )
