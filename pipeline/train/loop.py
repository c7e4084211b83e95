"""The training loop: steps, validations and checkpoints of one segment of a run.

Everything that the rest of the run depends on is in the checkpoint, so that a run which is killed
and started again ends with the same bits as one that is not.
"""

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.batches import (
    Arrangement,
    Batch,
    BatchPlan,
    arrange,
    evaluation_batches,
    resolve_arrangement,
)
from pipeline.data.store import TokenStore
from pipeline.device import (
    footprint_bytes,
    has_fused_attention,
    mlx_memory,
    mx,
    nn,
    reset_peak_memory,
)
from pipeline.errors import TrainingError
from pipeline.files import write_json
from pipeline.likelihood import document_losses
from pipeline.model.forward import check_packable, checkpoint_blocks
from pipeline.optim import OptimSettings, make_optimizer
from pipeline.train.checkpoint import CheckpointFolder
from pipeline.train.series import TRAIN_COLUMNS, VALIDATION_COLUMNS, Series
from pipeline.train.state import Progress, capture, put_back, require_same_numerics, weights_of
from pipeline.train.step import StepResult, TrainStep

EVALUATION_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class TrainSettings:
    """What the `train` section says, and what of other sections concerns the loop."""

    num_steps: int
    batch_size: int | None
    batch_tokens: int | None
    grad_accumulation_steps: int
    grad_checkpoint: bool
    max_grad_norm: float | None
    steps_per_eval: int
    steps_per_save: int
    validation_documents: int | None
    keep_checkpoints: int
    on_non_finite: str
    arrangement: str
    seed: int


@dataclass(frozen=True)
class StepReport:
    """What the loop tells of the update just finished; the first one has step 1."""

    step: int
    result: StepResult
    learning_rate: float
    tokens_per_second: float
    footprint_bytes: int
    val_loss: float | None = None
    is_best: bool = False


class Trainer:
    """Trains a model on a token store, resuming from the newest checkpoint of its folder."""

    def __init__(
        self,
        model: nn.Module,
        train: TokenStore,
        validation: TokenStore,
        settings: TrainSettings,
        optim: OptimSettings,
        folder: Path,
        weights: np.ndarray | None = None,
    ) -> None:
        """Set up a run.

        Args:
            model: trainable as it should be trained; its starting weights are those it has.
            train: what is trained on.
            validation: the fixed set of which the first documents are validated on.
            settings: the loop's parameters.
            optim: the optimizer's parameters.
            folder: the run's own folder, for checkpoints and series.
            weights: one per document of `train`; None is 1 for all.
        """
        self.model, self.train_store, self.validation_store = model, train, validation
        self.settings, self.folder, self.weights = settings, folder, weights
        self.arrangement: Arrangement = resolve_arrangement(
            settings.arrangement, has_fused_attention()
        )
        self.width = int(max(train.lengths.max(), validation.lengths.max()))
        self.plan = BatchPlan(
            train.lengths,
            batch_size=settings.batch_size,
            batch_tokens=settings.batch_tokens,
            seed=settings.seed,
        )
        if self.arrangement == "packed":
            check_packable(model)
        if settings.grad_checkpoint:
            checkpoint_blocks(model)
        self.optimizer = make_optimizer(optim, settings.num_steps)
        self.optimizer.init(model.trainable_parameters())
        self.train_step = TrainStep(model, self.optimizer, settings.max_grad_norm)
        self.checkpoints = CheckpointFolder(folder, settings.keep_checkpoints)
        self.curve = Series(folder / "train.csv", TRAIN_COLUMNS)
        self.validations = Series(folder / "validation.csv", VALIDATION_COLUMNS)
        self.progress = Progress()

    def restore(self) -> int:
        """Take up the newest checkpoint, if there is one; give the step it was taken at.

        Raises:
            CheckpointError: when it was made where numbers come out differently.
        """
        checkpoint = self.checkpoints.newest()
        if checkpoint is None:
            mx.random.seed(self.settings.seed)
        else:
            require_same_numerics(checkpoint, self.folder)
            self.progress = put_back(checkpoint, self.model, self.optimizer)
            self.progress.recoveries += 1
        self.curve.resume_after(self.progress.step)
        self.validations.resume_after(self.progress.step)
        return self.progress.step

    def save(self) -> None:
        """Commit all that the rest of the run depends on."""
        self.curve.sync()
        self.validations.sync()
        checkpoint = capture(self.model, self.optimizer, self.progress)
        self.checkpoints.save(checkpoint, protect=self.progress.best_step)

    def steps(self) -> Iterator[StepReport]:
        """Train to the end of the run, yielding after each update."""
        self.model.train()
        reset_peak_memory()
        began, before = time.monotonic(), self.progress.wall_seconds
        try:
            if self.progress.val_loss is None:
                self.validate()
                self.save()
            while self.progress.step < self.settings.num_steps:
                report = self.advance()
                self.progress.wall_seconds = before + time.monotonic() - began
                if self.is_due(self.settings.steps_per_save) or report.is_best:
                    self.save()
                yield report
        finally:
            self.curve.close()
            self.validations.close()

    def is_due(self, interval: int) -> bool:
        """Tell whether something that happens at intervals, and at the end, happens now."""
        step = self.progress.step
        return step % interval == 0 or step == self.settings.num_steps

    def advance(self) -> StepReport:
        """Make one step, and validate where that is due."""
        started = time.monotonic()
        result = self.one_step()
        report = self.report(result, time.monotonic() - started)
        if not self.is_due(self.settings.steps_per_eval):
            return report
        self.validate()
        is_best = self.progress.best_step == self.progress.step
        return dataclasses.replace(report, val_loss=self.progress.val_loss, is_best=is_best)

    def batches(self, step: int) -> list[Batch]:
        """Arrange the documents of a step; a pure function of the seed and the step."""
        documents = self.plan.documents(step)
        return arrange(
            self.train_store,
            documents,
            arrangement=self.arrangement,
            num_micro_batches=min(self.settings.grad_accumulation_steps, len(documents)),
            width=self.width,
            weights=self.weights,
        )

    def one_step(self) -> StepResult:
        """Make one update, or none where loss or gradient is not finite and that may be skipped."""
        step = self.progress.step + 1
        batches = self.batches(step)
        result = self.train_step(batches)
        if not result.finite:
            self.handle_non_finite(step, result, batches)
        else:
            loss_sum = result.train_loss * result.num_tokens
            self.progress.add_losses(loss_sum, result.num_tokens)
        self.progress.step = step
        return result

    def handle_non_finite(self, step: int, result: StepResult, batches: list[Batch]) -> None:
        """Write down which documents did it; stop, or count the step as skipped.

        Raises:
            TrainingError: when `train.on_non_finite=stop`.
        """
        documents = sorted(int(index) for batch in batches for index in batch.documents)
        path = self.folder / f"non_finite-{step:08d}.json"
        write_json(
            path, {"step": step, "documents": documents, "train_loss": str(result.train_loss)}
        )
        if self.settings.on_non_finite == "stop":
            raise TrainingError(
                f"Step {step}: loss {result.train_loss}, gradient norm {result.grad_norm}; the "
                f"update was not applied.\nThe documents of the step are listed in {path}.\n"
                "Lower optim.learning_rate, look at those documents, or set "
                "train.on_non_finite=skip."
            )
        self.progress.skipped_steps += 1

    def report(self, result: StepResult, seconds: float) -> StepReport:
        """Measure memory, and add the step to the curve."""
        memory, footprint = mlx_memory(), footprint_bytes()
        progress = self.progress
        progress.peak_memory_bytes = max(progress.peak_memory_bytes, memory.peak_bytes)
        progress.peak_footprint_bytes = max(progress.peak_footprint_bytes, footprint)
        learning_rate = float(self.optimizer.learning_rate)
        speed = result.num_tokens / seconds
        row: dict[str, Any] = {
            "step": progress.step,
            "train_loss": result.train_loss,
            "learning_rate": learning_rate,
            "grad_norm": result.grad_norm,
            "tokens_per_second": round(speed, 1),
            "footprint_bytes": footprint,
            "mlx_active_bytes": memory.active_bytes,
            "mlx_cache_bytes": memory.cache_bytes,
            "reloads": progress.reloads,
        }
        self.curve.append(row)
        return StepReport(progress.step, result, learning_rate, speed, footprint)

    def validate(self) -> None:
        """Measure the loss on the fixed set; remember it, and whether it is the best so far.

        Raises:
            TrainingError: when it is not finite.
        """
        progress = self.progress
        count = len(self.validation_store)
        limit = self.settings.validation_documents
        chosen = np.arange(count if limit is None else min(limit, count))
        batches = evaluation_batches(
            self.validation_store,
            chosen,
            arrangement=self.arrangement,
            width=self.width,
            batch_tokens=EVALUATION_BATCH_TOKENS,
        )
        val_loss = document_losses(self.model, batches).mean
        if not math.isfinite(val_loss):
            raise TrainingError(
                f"Step {progress.step}: the validation loss is {val_loss}; the weights are beyond "
                "mending.\nLower optim.learning_rate, and start again."
            )
        progress.close_window(val_loss)
        self.validations.append(
            {
                "step": progress.step,
                "train_loss": progress.train_loss,
                "val_loss": progress.val_loss,
            }
        )

    def best_weights(self) -> dict[str, mx.array]:
        """Load the weights of the step with the least validation loss."""
        return weights_of(self.checkpoints.load(self.progress.best_step))
