"""What a checkpoint keeps, so that a run resumes to the same bits."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.device import (
    mx,
    nn,
    numerics_fingerprint,
    optimizers,
    tree_unflatten,
)
from pipeline.errors import CheckpointError
from pipeline.model.network.forward import random_key, set_random_key
from pipeline.model.network.tree import named_arrays, trainable_arrays
from pipeline.train.checkpoints.folder import Checkpoint

MODEL, OPTIMIZER, RANDOM_KEY = "model/", "optimizer/", "random/key"


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        num_targets: tokens whose loss counted, in all steps whose update was made.
        num_tokens: tokens that the model read in them, prompts counted and padding left out.
        validated_step: the step of the last validation; -1 before the first one.
        window_loss_sum: nats summed since the last validation.
        window_targets: targets seen since then.
        train_loss: mean over the window that the last validation closed.
        best_score: the least score of a validation, by which the best is chosen.
        best_val_loss: the validation loss at that step, in nats per token.
        stale_validations: how many in a row have found no new best.
        stopped_early_at: the step at which there were too many of them; None: the run goes on.
        wall_seconds: time of steps, validation and saving, in all processes of the run.
        step_seconds: time of the steps alone.
        prefix_lookups: documents whose activations were asked for.
        prefix_hits: how many of them were stored.
        prefix_seconds: what computing, writing and reading them took.
    """

    step: int = 0
    num_targets: int = 0
    num_tokens: int = 0
    skipped_steps: int = 0
    validated_step: int = -1
    window_loss_sum: float = 0.0
    window_targets: int = 0
    train_loss: float | None = None
    val_loss: float | None = None
    best_score: float | None = None
    best_val_loss: float | None = None
    best_step: int = 0
    stale_validations: int = 0
    stopped_early_at: int | None = None
    wall_seconds: float = 0.0
    step_seconds: float = 0.0
    peak_memory_bytes: int = 0
    prefix_lookups: int = 0
    prefix_hits: int = 0
    prefix_seconds: float = 0.0

    def take_over(self, other: "Progress") -> None:
        """Take over all values of another one."""
        vars(self).update(vars(other))

    def add_update(self, loss_sum: float, num_targets: int, num_tokens: int) -> None:
        """Add the loss, in nats, the targets and the tokens of one update."""
        self.num_targets += num_targets
        self.num_tokens += num_tokens
        self.window_loss_sum += loss_sum
        self.window_targets += num_targets

    def rates(self) -> dict[str, float]:
        """Return targets and tokens a second of the steps; 0 before the first update."""
        counts = {"targets": self.num_targets, "tokens": self.num_tokens}
        return {
            f"{name}_per_second": count / self.step_seconds if count else 0.0
            for name, count in counts.items()
        }

    def close_window(self, val_loss: float, score: float, patience: int | None) -> None:
        """Record a validation, and start a new window.

        Args:
            val_loss: nats per token.
            score: chooses the best validation; less is better.
            patience: validations without a new best that end the run; None: none do.
        """
        self.val_loss, self.validated_step = val_loss, self.step
        if self.window_targets:
            self.train_loss = self.window_loss_sum / self.window_targets
            self.window_loss_sum, self.window_targets = 0.0, 0
        if self.best_score is None or score < self.best_score:
            self.best_score, self.best_val_loss, self.best_step = score, val_loss, self.step
            self.stale_validations = 0
        else:
            self.stale_validations += 1
        if self.stale_validations == patience:
            self.stopped_early_at = self.step


def capture(
    model: nn.Module, optimizer: optimizers.Optimizer, progress: Progress, code: dict[str, str]
) -> Checkpoint:
    """Gather trainable weights, optimizer state, random key, counters, and what computed them.

    Args:
        model: that is trained.
        optimizer: of the model.
        progress: the counters.
        code: hash of each module or folder whose code computes.
    """
    arrays = {MODEL + name: value for name, value in trainable_arrays(model).items()}
    arrays |= {OPTIMIZER + name: value for name, value in named_arrays(optimizer.state).items()}
    arrays[RANDOM_KEY] = random_key()
    numerics = numerics_fingerprint()
    state = {"progress": dataclasses.asdict(progress), "numerics": numerics, "code": code}
    return Checkpoint(progress.step, arrays, state)


def put_back(checkpoint: Checkpoint, model: nn.Module, optimizer: optimizers.Optimizer) -> Progress:
    """Restore what `capture` gathered; return the counters."""
    model.update(tree_unflatten(list(weights_of(checkpoint).items())))
    optimizer.state = tree_unflatten(list(with_prefix(checkpoint, OPTIMIZER).items()))
    set_random_key(checkpoint.arrays[RANDOM_KEY])
    return Progress(**checkpoint.state["progress"])


def weights_of(checkpoint: Checkpoint) -> dict[str, mx.array]:
    """Return the trainable weights of a checkpoint."""
    return with_prefix(checkpoint, MODEL)


def with_prefix(checkpoint: Checkpoint, prefix: str) -> dict[str, mx.array]:
    """Pick the arrays of one group, by their own names."""
    return {
        name.removeprefix(prefix): value
        for name, value in checkpoint.arrays.items()
        if name.startswith(prefix)
    }


def changes_since(checkpoint: Checkpoint, code: dict[str, str]) -> list[str]:
    """List the numerics and the code that differ from those that computed a checkpoint."""
    then, now = checkpoint.state["numerics"], numerics_fingerprint()
    numerics = [f"{name}: {then.get(name)} -> {now.get(name)}" for name in differing(then, now)]
    return numerics + [f"code: {name}" for name in differing(checkpoint.state["code"], code)]


def differing(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """List the names that do not have the same value in both."""
    names = sorted(then.keys() | now.keys())
    return [name for name in names if then.get(name) != now.get(name)]


def refuse_inexact(changed: list[str], step: int, folder: Path) -> None:
    """Refuse to resume where the same bits cannot be promised.

    Raises:
        CheckpointError: with what has changed, if anything has.
    """
    if changed:
        raise CheckpointError(
            f"{folder}: the run stands at step {step}, but numbers may come out differently now "
            f"({', '.join(changed)}).\n"
            "Go back to that environment and code, or continue with "
            "train.resume_allow_inexact=true (the metrics record it as `inexact`), or start afresh "
            "with train.resume=never."
        )
