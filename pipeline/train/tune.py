"""Fine-tunes a base model: what the train stage does, from settings to written weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.console import TrainingProgress
from pipeline.data.store import TokenStore
from pipeline.device import describe_device, mx
from pipeline.likelihood import primary_share, read_items
from pipeline.model.adapters import AdapterSettings, apply, save_adapter
from pipeline.model.base import count_parameters, load_base
from pipeline.model.tree import trainable_arrays
from pipeline.objective import document_weights
from pipeline.optim import OptimSettings
from pipeline.train.loop import Trainer, TrainSettings

CONFLICTS = "conflicts.jsonl"


@dataclass(frozen=True)
class DistrustSettings:
    """What the `objective.distrust` section says."""

    mode: str
    min_weight: float
    max_weight: float


@dataclass(frozen=True)
class Job:
    """Everything a fine-tuning needs.

    Attributes:
        base: models/base.
        prepared: data/prepared.
        run_folder: where checkpoints and series of this run lie.
        dtype: `model.dtype`.
    """

    base: Path
    prepared: Path
    run_folder: Path
    dtype: str
    adapter: AdapterSettings
    optim: OptimSettings
    train: TrainSettings
    distrust: DistrustSettings


def fine_tune(job: Job, trained: Path) -> dict[str, Any]:
    """Train, resuming where an earlier attempt was stopped, and write the weights.

    Args:
        job: what to do.
        trained: gets `adapters.safetensors` and `adapter_config.json` of the last step, and the
            same of the best step under `best/`.

    Returns:
        The metrics of the run.
    """
    loaded = load_base(job.base, job.dtype)
    config = apply(loaded.model, job.adapter, job.train.seed)
    train, validation = TokenStore(job.prepared / "train"), TokenStore(job.prepared / "validation")
    weights, weight_metrics = weigh(train, job.distrust)
    trainer = Trainer(
        loaded.model, train, validation, job.train, job.optim, job.run_folder, weights
    )
    run(trainer, "train")
    save_adapter(trained, trainable_arrays(loaded.model), config)
    save_adapter(trained / "best", trainer.best_weights(), config)
    trainable, total = count_parameters(loaded.model)
    return {
        **metrics_of(trainer),
        "trainable_parameters": trainable,
        "total_parameters": total,
        **weight_metrics,
        **conflict_metrics(loaded.model, job.prepared / CONFLICTS),
    }


def run(trainer: Trainer, title: str) -> None:
    """Train to the end, showing how it goes."""
    first_step = trainer.restore()
    with TrainingProgress(title, trainer.settings.num_steps, first_step) as progress:
        progress.note(f"{title}: {describe_device()}")
        if first_step:
            progress.note(f"{title}: resuming after step {first_step}")
        for report in trainer.steps():
            loss = report.result.train_loss
            progress.step(report.step, loss, report.tokens_per_second, report.footprint_bytes)
            if report.val_loss is not None:
                progress.note(f"{title} step {report.step}: val_loss {report.val_loss:.4f}")


def metrics_of(trainer: Trainer) -> dict[str, Any]:
    """Give what came out of a run; speed is over the whole run, validation included."""
    progress = trainer.progress
    return {
        "train_loss": progress.train_loss,
        "val_loss": progress.val_loss,
        "best_val_loss": progress.best_val_loss,
        "best_step": progress.best_step,
        "num_steps": progress.step,
        "num_tokens": progress.num_tokens,
        "tokens_per_second": progress.num_tokens / progress.wall_seconds,
        "peak_memory_bytes": progress.peak_memory_bytes,
        "peak_footprint_bytes": progress.peak_footprint_bytes,
        "reloads": progress.reloads,
        "recoveries": progress.recoveries,
        "skipped_steps": progress.skipped_steps,
        "wall_seconds": progress.wall_seconds,
        "arrangement": trainer.arrangement,
    }


def weigh(
    store: TokenStore, settings: DistrustSettings
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Turn provenance into one weight per document; give what there is to say about them."""
    known = ~np.isnan(store.authority_weight)
    metrics: dict[str, Any] = {"provenance_share": float(known.mean())}
    if settings.mode == "none":
        return None, metrics
    weights = document_weights(
        store.authority_weight,
        store.provenance_entropy,
        store.num_targets,
        min_weight=settings.min_weight,
        max_weight=settings.max_weight,
    )
    metrics["document_weight_min"] = float(weights.min())
    metrics["document_weight_max"] = float(weights.max())
    return weights, metrics


def conflict_metrics(model: Any, suite: Path) -> dict[str, Any]:  # noqa: ANN401
    """Measure which side the final weights take, where the prepared data hold the suite."""
    if not suite.exists():
        return {}
    share = primary_share(model, read_items(suite))
    mx.clear_cache()
    return {
        "conflicts_primary_share": share.share,
        "conflicts_primary_share_low": share.low,
        "conflicts_primary_share_high": share.high,
        "conflicts_primary_share_n": share.n,
    }
