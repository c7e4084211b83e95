"""Parts that measure the gain from a cache of frozen blocks."""

import dataclasses
import math
import time

from pipeline.benchmark.peers.corpus import Material, make_material, shortened
from pipeline.benchmark.peers.job import WARMUP_STEPS
from pipeline.benchmark.peers.programs import MLX_LM, OURS, UNCACHED
from pipeline.benchmark.peers.rounds import Comparison, Finished
from pipeline.benchmark.peers.train_stage import lay_out_inputs, overrides, run_train_stage
from pipeline.data.store import TokenStore

BUDGET = "train.prefix_cache_gb"
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
    part, batch_size = "last_quarter", comparison.settings.batch_size
    num_rows = max(1, comparison.settings.epoch_rows // batch_size) * batch_size
    material = epoch_material(comparison, part, num_rows)
    epoch = material.num_rows // batch_size
    layers = max(1, comparison.settings.model.num_hidden_layers // 4)
    job = dataclasses.replace(comparison.job(material, EPOCHS * epoch), num_layers=layers)

    def record(number: int, finished: dict[str, Finished]) -> None:
        for name, (_, outcome) in finished.items():
            rate = outcome.rate(epoch)
            comparison.results.add(part, "targets_per_second", name, number, rate)
            comparison.results.add(part, "peak_bytes", name, number, outcome.peak_bytes)
        record_passes(comparison, part, number, finished)

    jobs = {OURS: dataclasses.replace(job, is_cached=True), UNCACHED: job, MLX_LM: job}
    comparison.run_rounds(part, jobs, comparison.num_rounds, record)


def head(comparison: Comparison) -> None:
    """`head` mode: the second epoch, which runs no block, compared with steps that run them all.

    The time of the optimizer is left out, because it is the same in both.
    """
    part = "head"
    mean_tokens = float(TokenStore(comparison.material.prepared / "train").lengths.mean())
    batch_size = math.ceil(HEAD_TOKENS / (mean_tokens - 1))
    material = epoch_material(comparison, part, HEAD_STEPS * batch_size)
    epoch = -(-material.num_rows // batch_size)
    job = dataclasses.replace(
        comparison.job(material, 2 * epoch, batch_size), mode="head", num_layers=None
    )

    def record(number: int, finished: dict[str, Finished]) -> None:
        for name, (_, outcome) in finished.items():
            first = WARMUP_STEPS if name == UNCACHED else epoch
            seconds = sum(outcome.facts["gradient_seconds"][first:])
            rate = sum(outcome.num_targets[first:]) / seconds
            comparison.results.add(part, "gradient_targets_per_second", name, number, rate)
        record_passes(comparison, part, number, finished)

    jobs = {OURS: dataclasses.replace(job, is_cached=True), UNCACHED: job}
    comparison.run_rounds(part, jobs, comparison.num_rounds, record)


def record_passes(
    comparison: Comparison, part: str, number: int, finished: dict[str, Finished]
) -> None:
    """Record the weights used by a token, with and without a cache, and the hit rate."""
    if OURS in finished:
        hit_rate = finished[OURS][1].facts["cache_hit_rate"]
        comparison.results.add(part, "cache_hit_rate", OURS, number, hit_rate)
    for name, kind in ((OURS, "cached_passes"), (UNCACHED, "passes")):
        if name in finished:
            comparison.results.add(part, "passes", name, number, finished[name][1].facts[kind])


def sweep(comparison: Comparison) -> None:
    """Six supervised trainings over rank and reload interval, with and without a shared cache.

    Wall time of the whole command, with process starts and validations. Each command runs once,
    because a sweep takes long and averages the noise of six runs.
    """
    part, batch_size = "sweep", comparison.settings.batch_size
    num_rows = max(1, comparison.settings.sweep_rows // batch_size) * batch_size
    material = epoch_material(comparison, part, num_rows)
    epoch = material.num_rows // batch_size
    inputs = lay_out_inputs(comparison.folder / part / "inputs", material)
    rank = comparison.settings.rank
    grid = [
        "-m",
        f"lora.rank={max(1, rank // 2)},{rank},{2 * rank}",
        f"train.reload_interval_steps=0,{epoch}",
        *overrides(comparison, EPOCHS * epoch),
    ]
    for name, own in ((UNCACHED, [f"{BUDGET}=0"]), (OURS, [])):
        comparison.say(f"six trainings, {name} ...")
        began = time.monotonic()
        run_train_stage(comparison.folder / part / name, inputs, [*grid, *own])
        seconds = time.monotonic() - began
        comparison.results.add(part, "seconds", name, 1, seconds)
        comparison.keep()
        comparison.say(f"six trainings, {name}: {seconds:,.0f} s")
