"""The training loop: steps, validations and checkpoints of one segment of a run.

Everything that the rest of the run depends on is in the checkpoint, so that a run which is killed
and started again ends with the same bits as one that is not.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.data.batches import Batch, MicroBatch
from pipeline.device import mlx_memory, mx, nn, reset_peak_memory
from pipeline.errors import TrainingError
from pipeline.files import write_json
from pipeline.model.network.forward import check_packable, checkpoint_blocks
from pipeline.objective.likelihood import ConflictItem, Share, document_losses, primary_share
from pipeline.optim.optimizer import OptimSettings, make_optimizer
from pipeline.train.checkpoints.durable_save import DurableSave
from pipeline.train.checkpoints.folder import CheckpointFolder
from pipeline.train.checkpoints.series import (
    MACHINE_COLUMNS,
    RESULT_COLUMNS,
    VALIDATION_COLUMNS,
    Series,
)
from pipeline.train.checkpoints.state import (
    Progress,
    capture,
    changes_since,
    put_back,
    refuse_inexact,
)
from pipeline.train.feed import Feed, TrainingData
from pipeline.train.observer import Observer
from pipeline.train.prefix.replay import make_prefix
from pipeline.train.profile import Profile
from pipeline.train.report import StepReport, measured
from pipeline.train.settings import TrainSettings
from pipeline.train.step import StepResult, TrainStep

log = logging.getLogger(__name__)


class Trainer:
    """Trains a model on a token store, resuming from the newest checkpoint of its folder."""

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        settings: TrainSettings,
        optim: OptimSettings,
        folder: Path,
        observer: Observer | None = None,
    ) -> None:
        """Set up a run.

        Args:
            model: trainable as it should be trained; its starting weights are those it has.
            data: of the run.
            settings: the loop's parameters.
            optim: the optimizer's parameters.
            folder: of the run, for checkpoints and series.
            observer: of the run; None: there is none.
        """
        self.observer = observer or Observer()
        self.model, self.settings, self.folder = model, settings, folder
        self.feed = Feed(data, settings)
        if self.feed.arrangement == "packed":
            check_packable(model)
        if settings.grad_checkpoint:
            checkpoint_blocks(model)
        num_epochs = settings.num_steps / self.feed.order.steps_in_epoch(0)
        self.progress = Progress()
        self.prefix = make_prefix(model, data.activations, self.progress, self.observer, num_epochs)
        self.optimizer = make_optimizer(optim, settings.num_steps, settings.seed)
        self.optimizer.init(model.trainable_parameters())
        self.profile = Profile(folder / "profile.csv" if settings.profile else None)
        self.train_step = self.make_step()
        self.checkpoints = CheckpointFolder(folder, settings.keep_checkpoints)
        self.curve = Series(folder / "train.csv", RESULT_COLUMNS)
        self.machine = Series(folder / "machine.csv", MACHINE_COLUMNS)
        self.validations = Series(folder / "validation.csv", VALIDATION_COLUMNS)
        self.series = self.curve, self.machine, self.validations
        self.durable_save = DurableSave(self.checkpoints, self.series)
        self.code: dict[str, str] = {}

    def make_step(self) -> TrainStep:
        """Make the step; note where the head of the model cannot be run by itself."""
        train, terms = self.feed.data.train, self.feed.data.distrust.terms
        step = TrainStep(
            self.model,
            self.optimizer,
            self.settings.max_grad_norm,
            self.profile,
            self.settings.label_smoothing,
            None if terms is None else terms * train.num_targets,
            self.prefix.for_store(train),
        )
        if step.body_and_head.problem and not self.observer.reloads:
            self.observer.note(whole_logits(step.body_and_head.problem))
        return step

    def restore(self, code: dict[str, str] | None = None, if_changed: str = "refuse") -> list[str]:
        """Restore the newest checkpoint, if there is one.

        Args:
            code: hash of each module or folder whose code computes; checkpoints keep it.
            if_changed: what to do where numerics or code differ from those of the checkpoint:
                `refuse`, `continue`, or `restart` from the first step.

        Returns:
            The differences that the run continues with.

        Raises:
            CheckpointError: when there are some, and they are to be refused.
        """
        self.code = code or {}
        checkpoint = self.checkpoints.newest()
        changed = changes_since(checkpoint, self.code) if checkpoint else []
        if changed and if_changed == "restart":
            log.warning("starting afresh, because of changes: %s", ", ".join(changed))
            self.checkpoints.clear()
            checkpoint, changed = None, []
        if checkpoint is None:
            mx.random.seed(self.settings.seed)
        else:
            refuse_inexact(
                [] if if_changed == "continue" else changed, checkpoint.step, self.folder
            )
            self.progress.take_over(put_back(checkpoint, self.model, self.optimizer))
        last_step = self.progress.step if checkpoint else -1
        for series in (*self.series, self.profile):
            series.resume_after(last_step)
        return changed

    def save(self) -> bool:
        """Commit all that the rest of the run depends on; return whether it is on the disk now.

        Raises:
            CheckpointError: when nothing can be written and nothing was.
        """
        if self.durable_save.saved_step == self.progress.step:
            return True
        with self.profile.part("saving"):
            current = capture(self.model, self.optimizer, self.progress, self.code)
            return self.durable_save.save(current, self.progress.best_step)

    def steps(self) -> Iterator[StepReport]:
        """Train to the end of the run, yielding after each update."""
        self.model.train()
        began, before = time.monotonic(), self.progress.wall_seconds
        try:
            self.validate_if_due()  # of a new run, or one that was stopped while it validated
            while not self.is_over:
                reset_peak_memory()
                report = self.advance()
                self.validate_if_due()
                self.progress.wall_seconds = before + time.monotonic() - began
                if self.is_due(self.settings.steps_per_save):
                    self.save()
                self.profile.end_step(self.progress.step)
                yield report
        finally:
            for series in (*self.series, self.profile):
                series.sync()

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or the run has been stopped early."""
        progress = self.progress
        return progress.step == self.settings.num_steps or progress.stopped_early_at is not None

    def is_due(self, interval: int) -> bool:
        """Whether something that happens at intervals, and at the end, happens now."""
        return self.progress.step % interval == 0 or self.is_over

    def advance(self) -> StepReport:
        """Make one step, and measure it."""
        started = time.monotonic()
        result = self.one_step()
        seconds = time.monotonic() - started
        rate = float(self.optimizer.learning_rate)
        report = measured(self.progress, result, rate, seconds, self.observer)
        self.curve.append(report.result_row())
        self.machine.append(report.machine_row(self.observer))
        return report

    def validate_if_due(self) -> None:
        """Validate once after each interval, and save the best weights so far."""
        progress = self.progress
        if progress.validated_step == progress.step or not self.is_due(
            self.settings.steps_per_eval
        ):
            return
        with self.profile.part("validation"):
            self.validate()
        if progress.best_step == progress.step:
            self.save()

    def one_step(self) -> StepResult:
        """Make one update, or none where loss or gradient is not finite and that may be skipped."""
        step = self.progress.step + 1
        with self.profile.part("batches"):
            micro_batches = self.feed.micro_batches(step)
        result = self.train_step(micro_batches)
        if not result.finite:
            self.handle_non_finite(step, result, micro_batches)
        else:
            loss_sum = result.train_loss * result.num_targets
            self.progress.add_update(loss_sum, result.num_targets, result.num_tokens)
        self.progress.step = step
        return result

    def handle_non_finite(
        self, step: int, result: StepResult, micro_batches: list[MicroBatch]
    ) -> None:
        """Write the documents of the step to a file; stop, or count the step as skipped.

        Raises:
            TrainingError: when `train.on_non_finite=stop`.
        """
        batches = [batch for micro_batch in micro_batches for batch in micro_batch]
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

    def validate(self) -> None:
        """Measure the loss on the fixed set; record it, and whether it is the best so far.

        Raises:
            TrainingError: when it is not finite.
        """
        progress = self.progress
        val_loss = document_losses(self.model, self.validation_batches()).mean
        if not math.isfinite(val_loss):
            raise TrainingError(
                f"Step {progress.step}: the validation loss is {val_loss}; the weights are beyond "
                "mending.\nLower optim.learning_rate, and start again."
            )
        share = None
        if self.settings.best == "conflicts":
            share = self.conflicts_share(self.feed.contests, self.observer.heartbeat).share
        progress.peak_memory_bytes = max(progress.peak_memory_bytes, mlx_memory().peak_bytes)
        score = val_loss if share is None else -share
        progress.close_window(val_loss, score, self.settings.early_stopping_patience)
        if progress.stopped_early_at is not None:
            log.warning(
                "Step %d: %d validations without a new best; the run ends here. The best weights, "
                "of step %d, are in best/ (export.checkpoint=best).",
                progress.step,
                progress.stale_validations,
                progress.best_step,
            )
        self.validations.append(
            {
                "step": progress.step,
                "train_loss": progress.train_loss,
                "val_loss": progress.val_loss,
                "conflicts_primary_share": share,
            }
        )
        self.observer.validated(progress.step, val_loss)

    def conflicts_share(
        self, items: Sequence[ConflictItem], before_batch: Callable[[], None] = lambda: None
    ) -> Share:
        """Measure how often the weights side with the primary source of a held-out contest.

        Batches hold no more tokens than those of the validation, and frozen blocks are run.

        Args:
            items: of the conflicts suite.
            before_batch: is called before each batch.
        """
        share = primary_share(self.model, items, self.feed.conflict_rows, before_batch)
        mx.clear_cache()
        return share

    def validation_batches(self) -> Iterator[Batch]:
        """Yield each batch while its activations are in place, and show that the run is alive."""
        prefix = self.prefix.for_store(self.feed.data.validation)
        for batch in self.feed.validation_batches():
            self.observer.heartbeat()
            with prefix.of(batch):
                yield batch

    def best_weights(self) -> dict[str, mx.array]:
        """Load the weights of the step with the best validation."""
        return self.durable_save.best_weights(self.progress.best_step)


def whole_logits(problem: str) -> str:
    """Describe why a run needs more memory than others."""
    return (
        "the head of this model cannot be run by itself, so the logits of a whole micro-batch are "
        f"held: {problem}"
    )
