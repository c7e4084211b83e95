"""Parts that measure the gain from a cache of frozen blocks."""

import dataclasses
import math
import time

from pipeline.benchmark.peers.corpus import Material, make_material, shortened
from pipeline.benchmark.peers.job import WARMUP_STEPS, Outcome
from pipeline.benchmark.peers.programs import MLX_LM, OURS, UNCACHED
from pipeline.benchmark.peers.rounds import Comparison
from pipeline.benchmark.peers.train_stage import overrides, run_train_stage
from pipeline.data.store import TokenStore

EPOCHS = 3
HEAD_TOKENS = 2048
"""Least tokens of a step in `head` mode: with fewer, fixed costs outweigh the head's own work."""
HEAD_STEPS = 3
"""Steps of an epoch in `head` mode."""


def epoch_material(comparison: Comparison, name: str, num_rows: int) -> Material:
    """Make material of a few whole batches, for short epochs; mlx-lm drops an incomplete batch."""
    corpus = shortened(comparison.corpus, num_rows, comparison.settings.validation_rows)
    shape = dataclasses.asdict(comparison.settings.model)
    return make_material(comparison.folder / name, comparison.material.model, corpus, shape)


def last_quarter(comparison: Comparison) -> None:
    """LoRA on the last quarter of the blocks; rates count from the second epoch."""
    batch_size = comparison.settings.batch_size
    num_rows = max(1, comparison.settings.epoch_rows // batch_size) * batch_size
    material = epoch_material(comparison, comparison.part, num_rows)
    epoch = material.num_rows // batch_size
    layers = max(1, comparison.settings.model.num_hidden_layers // 4)
    job = comparison.job(material, EPOCHS * epoch, num_layers=layers)
    jobs = {OURS: dataclasses.replace(job, is_cached=True), UNCACHED: job, MLX_LM: job}
    for number, outcomes in comparison.run_rounds(jobs, comparison.num_rounds):
        for name, outcome in outcomes.items():
            figures = {"targets_per_second": outcome.rate(epoch), "peak_bytes": outcome.peak_bytes}
            comparison.record(name, number, **figures)
        record_passes(comparison, number, outcomes)


def head(comparison: Comparison) -> None:
    """`head` mode: the second epoch, which runs no block, compared with steps that run them all.

    The time of the optimizer is left out, because it is the same in both.
    """
    mean_tokens = float(TokenStore(comparison.material.prepared / "train").lengths.mean())
    batch_size = math.ceil(HEAD_TOKENS / (mean_tokens - 1))
    material = epoch_material(comparison, comparison.part, HEAD_STEPS * batch_size)
    epoch = -(-material.num_rows // batch_size)
    job = comparison.job(material, 2 * epoch, batch_size=batch_size, mode="head")
    jobs = {OURS: dataclasses.replace(job, is_cached=True), UNCACHED: job}
    for number, outcomes in comparison.run_rounds(jobs, comparison.num_rounds):
        for name, outcome in outcomes.items():
            first = WARMUP_STEPS if name == UNCACHED else epoch
            seconds = sum(outcome.facts["gradient_seconds"][first:])
            rate = sum(outcome.num_targets[first:]) / seconds
            comparison.record(name, number, gradient_targets_per_second=rate)
        record_passes(comparison, number, outcomes)


def record_passes(comparison: Comparison, number: int, outcomes: dict[str, Outcome]) -> None:
    """Record how often a token is multiplied with a weight, with and without the cache."""
    for name, fact in ((OURS, "cached_passes"), (UNCACHED, "passes")):
        if name in outcomes:
            comparison.record(name, number, passes=outcomes[name].facts[fact])


def sweep(comparison: Comparison) -> None:
    """Six supervised trainings over rank and reload interval, with and without a shared cache.

    Wall time of the whole command, with process starts and validations. Each command runs once,
    because a sweep takes long and averages the noise of six runs.
    """
    batch_size, rank = comparison.settings.batch_size, comparison.settings.rank
    num_rows = max(1, comparison.settings.sweep_rows // batch_size) * batch_size
    folder = comparison.folder / comparison.part
    material = epoch_material(comparison, f"{comparison.part}/material", num_rows)
    epoch = material.num_rows // batch_size
    grid = [
        "-m",
        f"lora.rank={max(1, rank // 2)},{rank},{2 * rank}",
        f"train.reload_interval_steps=0,{epoch}",
        *overrides(comparison, EPOCHS * epoch),
    ]
    for name, own in ((UNCACHED, ["train.prefix_cache_gb=0"]), (OURS, [])):
        comparison.say(f"six trainings, {name} ...")
        began = time.monotonic()
        run_train_stage(folder / name, material, [*grid, *own])
        seconds = time.monotonic() - began
        comparison.record(name, 1, seconds=seconds)
        comparison.keep()
        comparison.say(f"six trainings, {name}: {seconds:,.0f} s")
