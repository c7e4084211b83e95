"""What a supervisor is told, and what it knows of the worker that trains."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from pipeline.errors import PipelineError
from pipeline.train.supervise.launch import WorkerProcess


@dataclass(frozen=True)
class SupervisorSettings:
    """What the `train` section says about processes and memory."""

    reload_interval_steps: int = 0
    reload_memory_threshold_gb: float | None = None
    memory_limit_gb: float | None = None
    shrink_on_oom: bool = False
    hang_timeout_seconds: float = 600.0
    resume: str = "auto"
    resume_allow_inexact: bool = False


def supervisor_settings(section: DictConfig) -> SupervisorSettings:
    """Gather what the `train` section says to the supervisor."""
    names = [field.name for field in dataclasses.fields(SupervisorSettings)]
    return SupervisorSettings(**{name: section[name] for name in names})


@dataclass
class Segment:
    """What is known of the worker that trains, and in the end why it ended.

    Attributes:
        phase: `starting`, `stepping`, `ending` or `finishing`.
        reason: why it ended by itself, as `train_segment` says; None where it died.
        cause: why it died, where that is known.
        last_heard: by the monotonic clock, which no change of the date moves.
    """

    worker: WorkerProcess
    last_heard: float
    phase: str = "starting"
    step: int = 0
    reason: str | None = None
    cause: str = ""
    is_memory: bool = False
    metrics: dict[str, Any] | None = None
    error: PipelineError | None = None
