"""The program of Tidewheel: the training loop that a worker of `stages.train` runs."""

import csv
from pathlib import Path

from pipeline.benchmark.peers.job import (
    BETAS,
    EPS,
    SCALE,
    TARGETS,
    WEIGHT_DECAY,
    Job,
    Outcome,
    answer,
)
from pipeline.data.batches import RowLayout
from pipeline.data.store import TokenStore
from pipeline.device import has_fused_attention, matmul_flops_per_second, reset_peak_memory
from pipeline.errors import ModelError
from pipeline.model.network.adapters import AdapterSettings, apply, save_adapter
from pipeline.model.network.base import load_base, weights_identity
from pipeline.model.network.tree import named_arrays, trainable_arrays
from pipeline.optim.optimizer import OptimSettings
from pipeline.train.feed import TrainingData
from pipeline.train.loop import Trainer
from pipeline.train.plan.roofline import (
    SCORE_COPIES,
    Shape,
    floor_bytes,
    matrix_passes,
    shape_of,
)
from pipeline.train.prefix.replay import PrefixSettings
from pipeline.train.report import StepReport
from pipeline.train.settings import TrainSettings

RUN = "run"
CACHE_BYTES = 10**10


def adapter_settings(job: Job) -> AdapterSettings:
    """Return which weights are trained."""
    return AdapterSettings(job.mode, job.rank, SCALE * job.rank, 0.0, job.num_layers, TARGETS)


def optim_settings(job: Job) -> OptimSettings:
    """Return AdamW with a constant learning rate."""
    return OptimSettings(
        job.learning_rate,
        WEIGHT_DECAY,
        warmup_fraction=0.0,
        final_fraction=None,
        beta1=BETAS[0],
        beta2=BETAS[1],
        eps=EPS,
        schedule="constant",
    )


def train_settings(job: Job) -> TrainSettings:
    """Return settings that only train. A run ends with a validation, here of one document."""
    return TrainSettings(
        num_steps=job.num_steps,
        batch_size=job.batch_size,
        grad_checkpoint=job.grad_checkpoint,
        max_grad_norm=None,
        steps_per_eval=job.num_steps,
        steps_per_save=job.num_steps,
        validation_documents=1,
        arrangement="auto",
        seed=job.seed,
        profile=True,
    )


def train(job: Job) -> Outcome:
    """Train, and save the adapters that the job asks for."""
    base, output = load_base(Path(job.model), "auto"), Path(job.output)
    settings, optim = adapter_settings(job), optim_settings(job)
    config = apply(base.model, settings, job.seed)
    prepared = Path(job.prepared)
    data = TrainingData(
        TokenStore(prepared / "train"),
        TokenStore(prepared / "validation"),
        activations=prefix_settings(job),
    )
    trainer = Trainer(base.model, data, train_settings(job), optim, output / RUN)
    facts = facts_of(trainer, shape_of(base.model, base.config, settings.trains_matrices))
    if job.is_cached and not trainer.prefix.facts()["frozen_blocks"]:
        raise ModelError(
            f"{job.model}: there is no frozen block whose outputs could be stored.\n"
            "Give the model two blocks or more: benchmark.peers.model.num_hidden_layers=..."
        )
    reset_peak_memory()
    trainer.restore()
    reports = list[StepReport]()
    for report in trainer.steps():
        reports.append(report)
        if job.steps_per_snapshot and report.step % job.steps_per_snapshot == 0:
            folder = output / f"step-{report.step:08d}"
            save_adapter(folder, trainable_arrays(base.model), config)
    return Outcome(
        seconds=[report.seconds for report in reports],
        num_targets=[report.result.num_targets for report in reports],
        peak_bytes=trainer.progress.peak_memory_bytes,
        facts={**facts, "gradient_seconds": gradient_seconds(output / RUN / "profile.csv")},
    )


def prefix_settings(job: Job) -> PrefixSettings | None:
    """Return where the outputs of frozen blocks are stored; None where they are not."""
    if not job.is_cached:
        return None
    identity = weights_identity(Path(job.model), "auto")
    return PrefixSettings(Path(job.output) / "activations", CACHE_BYTES, identity)


def facts_of(trainer: Trainer, shape: Shape) -> dict[str, float]:
    """Return what the figures are compared with: matrix products, and the floor of the plan.

    `passes` is the number of weights that a token is multiplied with in a step. `cached_passes`
    leaves out the frozen blocks, whose outputs are stored. The floor is the least memory for the
    largest batch. Where attention is not fused, it includes the score matrices of one block.
    """
    train, settings = trainer.feed.data.train, trainer.settings
    rows, longest = settings.documents_per_step(trainer.feed.width), int(train.lengths.max())
    layout = RowLayout("bucketed", trainer.feed.width)
    width = layout.row_width(train.lengths, [[int(train.lengths.argmax())]])
    weights = sum(value.nbytes for value in named_arrays(trainer.model.parameters()).values())
    trained = sum(value.nbytes for value in trainable_arrays(trainer.model).values())
    state = sum(value.nbytes for value in named_arrays(trainer.optimizer.state).values())
    floor = floor_bytes(shape, weights + trained + state, rows * longest)
    if not has_fused_attention():
        floor += round(SCORE_COPIES * rows * width**2 * shape.num_heads * shape.itemsize)
    return {
        "gemm_flops_per_second": matmul_flops_per_second(),
        "passes": matrix_passes(shape),
        "cached_passes": shape.weights(shape.first_trained) * (3 if shape.trains_matrices else 2),
        "floor_bytes": floor,
    }


def gradient_seconds(profile: Path) -> list[float]:
    """Read the seconds of each step without the update of the weights, from plots/profile.csv."""
    with profile.open(encoding="utf-8", newline="") as file:
        return [float(row["batches"]) + float(row["gradients"]) for row in csv.DictReader(file)]


if __name__ == "__main__":
    answer(train)
