"""What a supervisor knows of its run and of the worker that trains."""

import time
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import PipelineError
from pipeline.train.protocol import Planned
from pipeline.train.supervise.retry import Retry


@dataclass
class Segment:
    """What one worker has done so far, and why it has ended.

    Attributes:
        last_heard: time of its last message by the monotonic clock, which no change of the date
            moves.
        first_step: the step that it has started from.
        phase: `starting`, `stepping`, `ending` or `finishing`.
        reason: why it ended by itself, as in `protocol.Ended`; None where it died.
        cause: why it died, where that is known.
        is_memory: whether it died because memory ran out.
        metrics: of the run, from the worker that has finished it.
        error: what the user has to mend.
    """

    last_heard: float = field(default_factory=time.monotonic)
    phase: str = "starting"
    first_step: int = 0
    step: int = 0
    reason: str | None = None
    cause: str = ""
    is_memory: bool = False
    metrics: dict[str, Any] | None = None
    error: PipelineError | None = None


@dataclass
class RunState:
    """What is known of a run; only its supervisor writes here.

    Attributes:
        limit_bytes: footprint that the run may never pass.
        segment: the worker that trains.
        retry: the deaths since the last progress.
        prediction: of the plan, once it is made.
        reload_began: end of the last step before a planned change of process, by the monotonic
            clock; None outside of one.
        leaks: bytes per step that each process of sufficient length has gained.
    """

    limit_bytes: int
    segment: Segment = field(default_factory=Segment)
    retry: Retry = field(default_factory=Retry)
    prediction: Planned | None = None
    reload_began: float | None = None
    leaks: list[float] = field(default_factory=list)

    @property
    def reload_seconds(self) -> float | None:
        """How long the change of process has taken so far; None outside of one."""
        return None if self.reload_began is None else time.monotonic() - self.reload_began

    def started(self, step: int) -> None:
        """Record that a worker trains from a step on."""
        self.segment.phase = "stepping"
        self.segment.first_step = self.segment.step = step
        self.reload_began = None
        self.retry.progressed(step)

    def stepped(self, step: int) -> None:
        """Record a step."""
        self.segment.step = step
        self.retry.progressed(step)

    def ending(self, step: int, reason: str) -> None:
        """Record the last step of a worker; a planned change of process begins with it.

        A worker that is stopped while it validates never reports that step by itself.
        """
        self.stepped(step)
        self.segment.phase = "ending"
        if reason in ("interval", "memory"):
            self.reload_began = time.monotonic()

    def ended(self, reason: str, leak_bytes_per_step: float | None) -> None:
        """Record that a worker has done its part."""
        self.segment.reason = reason
        if leak_bytes_per_step is not None:
            self.leaks.append(leak_bytes_per_step)

    def died(self, cause: str, is_memory: bool) -> None:
        """Record the death of a worker."""
        self.reload_began = None
        self.retry.died(cause, is_memory, self.segment.step - self.segment.first_step)
