"""What the loop reports of an update, to its caller and in the series."""

from dataclasses import dataclass
from typing import Any

from pipeline.device import MlxMemory, mlx_memory
from pipeline.train.checkpoints.state import Progress
from pipeline.train.observer import Observer
from pipeline.train.step import StepResult


@dataclass(frozen=True)
class StepReport:
    """What the loop reports of the update just finished; the first one has step 1.

    Attributes:
        seconds: how long it took: laying out its batches, gradients and update, without
            validation and saving.
        footprint_bytes: what the run holds after it.
        memory: of MLX: the part of that in arrays, the part that it keeps for later arrays, and
            its peak during the step.
    """

    step: int
    result: StepResult
    learning_rate: float
    seconds: float
    footprint_bytes: int
    memory: MlxMemory

    @property
    def targets_per_second(self) -> float:
        """Return the rate of the tokens whose loss counted."""
        return self.result.num_targets / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Return the rate of the tokens that the model read, prompts counted and padding not."""
        return self.result.num_tokens / self.seconds

    @property
    def spike_bytes(self) -> int:
        """The most that MLX held during the step beyond what is left of it."""
        memory = self.memory
        return max(0, memory.peak_bytes - memory.active_bytes - memory.cache_bytes)

    def result_row(self) -> dict[str, Any]:
        """Return the row of train.csv; see `series.RESULT_COLUMNS`."""
        return {
            "step": self.step,
            "train_loss": self.result.train_loss,
            "learning_rate": self.learning_rate,
            "grad_norm": self.result.grad_norm,
            "distrust_term": self.result.distrust_term,
            "mean_weight": self.result.mean_weight,
        }

    def machine_row(self, observer: Observer) -> dict[str, Any]:
        """Return the row of machine.csv; see `series.MACHINE_COLUMNS`."""
        return {
            "step": self.step,
            "targets_per_second": round(self.targets_per_second, 1),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "footprint_bytes": self.footprint_bytes,
            "mlx_active_bytes": self.memory.active_bytes,
            "mlx_cache_bytes": self.memory.cache_bytes,
            "mlx_peak_bytes": self.memory.peak_bytes,
            "memory_limit_bytes": observer.limit_bytes,
            "reload_above_bytes": observer.bound_bytes,
            "reloads": observer.reloads,
        }


def measured(
    progress: Progress, result: StepResult, learning_rate: float, seconds: float, observer: Observer
) -> StepReport:
    """Measure memory after an update; remember the peak of MLX, and the time of the steps."""
    memory = mlx_memory()
    if result.finite:
        progress.step_seconds += seconds
    progress.peak_memory_bytes = max(progress.peak_memory_bytes, memory.peak_bytes)
    return StepReport(
        step=progress.step,
        result=result,
        learning_rate=learning_rate,
        seconds=seconds,
        footprint_bytes=observer.footprint_bytes(),
        memory=memory,
    )
