"""What the configuration says to a supervisor."""

import dataclasses
from dataclasses import dataclass

from omegaconf import DictConfig

RESTART = "restart"


@dataclass(frozen=True)
class SupervisorSettings:
    """What the `train` section says about processes and memory.

    Attributes:
        resume: `train.resume`; or `restart`, for a stage without that key: as `auto`, but a run
            whose numerics or code have changed starts afresh.
    """

    reload_interval_steps: int = 0
    steps_per_sample: int | None = None
    reload_memory_threshold_gb: float | None = None
    memory_limit_gb: float | None = None
    shrink_on_oom: bool = False
    hang_timeout_seconds: float = 600.0
    resume: str = "auto"
    resume_allow_inexact: bool = False

    @property
    def if_changed(self) -> str:
        """What a worker does where numerics or code have changed; see `protocol.Go`."""
        if self.resume == RESTART:
            return "restart"
        return "continue" if self.resume_allow_inexact else "refuse"


def supervisor_settings(section: DictConfig) -> SupervisorSettings:
    """Gather what the `train` section says to the supervisor."""
    names = [field.name for field in dataclasses.fields(SupervisorSettings)]
    return SupervisorSettings(**{name: section[name] for name in names})
