"""What the loop reports of an update, to its caller and in the series."""

from dataclasses import dataclass
from typing import Any

from pipeline.device import mlx_memory
from pipeline.train.checkpoints.state import Progress
from pipeline.train.observer import Observer
from pipeline.train.step import StepResult


@dataclass(frozen=True)
class StepReport:
    """What the loop reports of the update just finished; the first one has step 1.

    Attributes:
        seconds: how long it took, without validation and saving.
        footprint_bytes: what the run holds after it.
        mlx_active_bytes: the part of that in arrays of MLX.
        mlx_cache_bytes: the part that MLX keeps for later arrays.
        spike_bytes: the most that MLX held beyond both during the step.
    """

    step: int
    result: StepResult
    learning_rate: float
    seconds: float
    footprint_bytes: int
    mlx_active_bytes: int
    mlx_cache_bytes: int
    spike_bytes: int

    @property
    def tokens_per_second(self) -> float:
        """Targets per second."""
        return self.result.num_tokens / self.seconds

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
            "tokens_per_second": round(self.tokens_per_second, 1),
            "footprint_bytes": self.footprint_bytes,
            "mlx_active_bytes": self.mlx_active_bytes,
            "mlx_cache_bytes": self.mlx_cache_bytes,
            "memory_limit_bytes": observer.limit_bytes,
            "reload_above_bytes": observer.bound_bytes,
            "reloads": observer.reloads,
        }


def measured(
    progress: Progress, result: StepResult, learning_rate: float, seconds: float, observer: Observer
) -> StepReport:
    """Measure memory after an update, and remember the peaks."""
    memory, footprint = mlx_memory(), observer.footprint_bytes()
    progress.peak_memory_bytes = max(progress.peak_memory_bytes, memory.peak_bytes)
    progress.peak_footprint_bytes = max(progress.peak_footprint_bytes, footprint)
    return StepReport(
        step=progress.step,
        result=result,
        learning_rate=learning_rate,
        seconds=seconds,
        footprint_bytes=footprint,
        mlx_active_bytes=memory.active_bytes,
        mlx_cache_bytes=memory.cache_bytes,
        spike_bytes=max(0, memory.peak_bytes - memory.active_bytes - memory.cache_bytes),
    )
