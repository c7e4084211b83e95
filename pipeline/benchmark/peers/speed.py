"""Parts of the comparison in which other programs train the same as Tidewheel."""

import bisect
import dataclasses
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.corpus import Material, joined, make_material, make_model
from pipeline.benchmark.peers.job import WARMUP_STEPS, Job, Outcome
from pipeline.benchmark.peers.programs import BFLOAT16, FLOAT32, INSTALLED, MLX_LM, OURS
from pipeline.benchmark.peers.results import seconds_to_loss
from pipeline.benchmark.peers.rounds import Comparison
from pipeline.data.batches import RowLayout, evaluation_batches
from pipeline.data.store import TokenStore
from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.model.network.adapters import load_adapter
from pipeline.model.network.base import load_base
from pipeline.objective.likelihood import document_losses

SNAPSHOTS = 12
"""So many adapters are saved up to the last step of the other program."""
LONGER = 1.5
"""Our steps as a multiple of the other program's, in case we reach its last loss later."""
MEMORY_ROUNDS, MEMORY_STEPS = 2, 2
"""Memory hardly varies between rounds; the second round shows that."""
LONG_ROWS = 8
BATCH_TOKENS = 2048
"""Of a batch that is scored."""


def validation_loss(material: Material, adapter: Path | None) -> float:
    """Score an adapter of any program by our loss on the held-out rows, in nats per target.

    Args:
        material: the model and the rows.
        adapter: its folder; None: the base model alone.
    """
    model, store = (
        load_base(material.model, "auto").model,
        TokenStore(material.prepared / "validation"),
    )
    if adapter is not None:
        load_adapter(model, adapter)
    batches = evaluation_batches(
        store,
        np.arange(len(store)),
        RowLayout("bucketed", int(store.lengths.max())),
        batch_tokens=BATCH_TOKENS,
    )
    return document_losses(model, batches).mean


def all_blocks(comparison: Comparison) -> None:
    """Train LoRA on all blocks, and time how long we need to the last validation loss of mlx-lm."""
    num_steps = comparison.num_steps
    interval = max(1, num_steps // SNAPSHOTS)
    theirs = comparison.job(comparison.material, num_steps)
    ours = dataclasses.replace(
        theirs, num_steps=round(LONGER * num_steps), steps_per_snapshot=interval
    )
    rounds = comparison.run_rounds({OURS: ours, MLX_LM: theirs}, comparison.num_rounds)
    for number, outcomes in rounds:
        for name, outcome in outcomes.items():
            figures = {"targets_per_second": outcome.rate(), "peak_bytes": outcome.peak_bytes}
            comparison.record(name, number, **figures)
        if OURS in outcomes:
            facts = outcomes[OURS].facts  # in a step, each token meets each weight `passes` times
            bound = facts["gemm_flops_per_second"] / (2 * facts["passes"])
            comparison.record(OURS, number, roofline_targets_per_second=bound)
        if OURS in outcomes and MLX_LM in outcomes:
            record_seconds(comparison, number, outcomes, interval)


def record_seconds(
    comparison: Comparison, number: int, outcomes: dict[str, Outcome], interval: int
) -> None:
    """Find when we reach the last loss of mlx-lm; `validation_loss` scores both.

    A bisection chooses which of our snapshots are scored.

    Args:
        comparison: receives the figures.
        number: of the round.
        outcomes: of both programs.
        interval: steps between our snapshots.
    """
    where, theirs, ours = f"round {number}", outcomes[MLX_LM].seconds, outcomes[OURS].seconds
    comparison.say(f"{where}: scoring adapters ...")
    target = validation_loss(comparison.material, comparison.output(number, MLX_LM))
    steps = range(0, len(ours) + 1, interval)

    @cache
    def loss(step: int) -> float:
        snapshot = comparison.output(number, OURS) / f"step-{step:08d}"
        return validation_loss(comparison.material, snapshot if step else None)

    index = bisect.bisect_left(steps, True, key=lambda step: loss(step) <= target)
    around = steps[max(0, index - 1) : index + 1]
    curve = [(sum(ours[WARMUP_STEPS:step], 0.0), loss(step)) for step in around]
    comparison.record(MLX_LM, number, validation_loss=target)
    try:
        seconds = seconds_to_loss(curve, target)
    except NotMeasured as reason:
        comparison.results.reasons[comparison.part, MLX_LM] = str(reason)
        comparison.say(f"{where}: {reason}")
        return
    their_seconds = sum(theirs[WARMUP_STEPS:])
    comparison.record(OURS, number, seconds_to_loss=seconds)
    comparison.record(MLX_LM, number, seconds_to_loss=their_seconds)
    comparison.say(f"{where}: {target:.4f} after {seconds:.1f} s, mlx_lm {their_seconds:.1f} s")


def as_installed(comparison: Comparison) -> None:
    """Run mlx-lm with the BLAS of MLX's wheel, for a few steps."""
    job = comparison.job(comparison.material, WARMUP_STEPS + comparison.settings.installed_steps)
    record_rates(comparison, {INSTALLED: job})


def torch_peft(comparison: Comparison) -> None:
    """Run torch with peft, in float32 and in bfloat16."""
    job = comparison.job(comparison.material, WARMUP_STEPS + comparison.settings.torch_steps)
    record_rates(comparison, {FLOAT32: job, BFLOAT16: job})


def record_rates(comparison: Comparison, jobs: dict[str, Job]) -> None:
    """Run rounds, and record nothing but the rates."""
    for number, outcomes in comparison.run_rounds(jobs, comparison.num_rounds):
        for name, outcome in outcomes.items():
            comparison.record(name, number, targets_per_second=outcome.rate())


def large_vocabulary(comparison: Comparison) -> None:
    """Measure memory with a large vocabulary, long rows and gradient checkpointing."""
    folder, settings = comparison.folder / "long", comparison.settings
    shape = dataclasses.asdict(settings.large_vocabulary)
    tokenizer = comparison.folder / "tokenizer"
    make_model(folder / "model", shape, tokenizer, comparison.seed)
    num_rows = max(LONG_ROWS, settings.batch_size)
    texts = joined(comparison.corpus, load_tokenizer(tokenizer), settings.long_row_tokens, num_rows)
    material = make_material(folder, folder / "model", texts, shape)
    job = comparison.job(material, MEMORY_STEPS, grad_checkpoint=True)
    for number, outcomes in comparison.run_rounds({OURS: job, MLX_LM: job}, MEMORY_ROUNDS):
        for name, outcome in outcomes.items():
            comparison.record(name, number, peak_bytes=outcome.peak_bytes)
        if OURS in outcomes:
            floor = outcomes[OURS].facts["floor_bytes"]
            comparison.record(OURS, number, floor_bytes=floor)
