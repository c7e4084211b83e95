"""Parts of the comparison that measure what storing the outputs of frozen blocks gains."""

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
"""Tokens of a step in `head` mode, at least: with fewer, fixed costs outweigh the head's work."""
HEAD_STEPS = 3
"""Steps of an epoch in `head` mode."""


def epoch_material(comparison: Comparison, name: str, num_rows: int) -> Material:
    """Make material of a few whole batches, for short epochs; mlx-lm drops a partial batch."""
    corpus = shortened(comparison.corpus, num_rows, comparison.settings.validation_rows)
    shape = dataclasses.asdict(comparison.settings.model)
    return make_material(comparison.folder / name, comparison.material.model, corpus, shape)


def last_quarter(comparison: Comparison) -> None:
    """Train LoRA on the last quarter of the blocks; rates are those from the second epoch on."""
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
    """Train in `head` mode: compare the second epoch, which runs no block, with uncached steps.

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
    """Time six runs of the train stage over rank and reload interval, with and without the cache.

    The time is that of the whole command, with the start of processes and validations. Each command
    runs once, because it takes long and averages over six runs.
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
