"""Parts that show what a cache of frozen blocks is worth."""

import dataclasses
import math
import time

from pipeline.benchmark.peers.corpus import Material, make_material, shortened
from pipeline.benchmark.peers.job import WARMUP_STEPS
from pipeline.benchmark.peers.programs import MLX_LM, OURS, UNCACHED
from pipeline.benchmark.peers.rounds import Contest, Played
from pipeline.benchmark.peers.train_stage import lay_out_inputs, overrides, run_train_stage
from pipeline.data.store import TokenStore

BUDGET = "train.prefix_cache_gb"
EPOCHS = 3
HEAD_TOKENS = 2048
"""Tokens of a step in `head` mode, at least: fewer, and the head's own work is not what counts."""
HEAD_STEPS = 3
"""Steps of an epoch in `head` mode."""


def epoch_material(contest: Contest, name: str, num_rows: int) -> Material:
    """Take a few rows for short epochs; whole batches, because mlx-lm leaves out what is over."""
    corpus = shortened(contest.corpus, num_rows, contest.settings.validation_rows)
    shape = dataclasses.asdict(contest.settings.model)
    return make_material(contest.folder / name, contest.material.model, corpus, shape)


def last_quarter(contest: Contest) -> None:
    """LoRA on the last quarter of the blocks; rates are from the second epoch on."""
    part, batch_size = "last_quarter", contest.settings.batch_size
    num_rows = max(1, contest.settings.epoch_rows // batch_size) * batch_size
    material = epoch_material(contest, part, num_rows)
    epoch = material.num_rows // batch_size
    layers = max(1, contest.settings.model.num_hidden_layers // 4)
    job = dataclasses.replace(contest.job(material, EPOCHS * epoch), num_layers=layers)

    def record(number: int, played: dict[str, Played]) -> None:
        for name, (_, outcome) in played.items():
            rate = outcome.rate(epoch)
            contest.board.add(part, "targets_per_second", name, number, rate)
            contest.board.add(part, "peak_bytes", name, number, outcome.peak_bytes or 0)
        record_passes(contest, part, number, played)

    jobs = {OURS: dataclasses.replace(job, is_cached=True), UNCACHED: job, MLX_LM: job}
    contest.hold(part, jobs, contest.num_rounds, record)


def head(contest: Contest) -> None:
    """`head` mode: the second epoch, in which no block is run, beside steps that run them all.

    The optimizer's time is left out on both sides: it is the same.
    """
    part = "head"
    mean_tokens = float(TokenStore(contest.material.prepared / "train").lengths.mean())
    batch_size = math.ceil(HEAD_TOKENS / (mean_tokens - 1))
    material = epoch_material(contest, part, HEAD_STEPS * batch_size)
    epoch = -(-material.num_rows // batch_size)
    job = dataclasses.replace(
        contest.job(material, 2 * epoch, batch_size), mode="head", num_layers=None
    )

    def record(number: int, played: dict[str, Played]) -> None:
        for name, (_, outcome) in played.items():
            first = WARMUP_STEPS if name == UNCACHED else epoch
            seconds = sum(outcome.facts["gradient_seconds"][first:])
            rate = sum(outcome.num_targets[first:]) / seconds
            contest.board.add(part, "gradient_targets_per_second", name, number, rate)
        record_passes(contest, part, number, played)

    jobs = {OURS: dataclasses.replace(job, is_cached=True), UNCACHED: job}
    contest.hold(part, jobs, contest.num_rounds, record)


def record_passes(contest: Contest, part: str, number: int, played: dict[str, Played]) -> None:
    """Note how many weights a token meets, with and without a cache, and how well that answered."""
    if OURS in played:
        hit_rate = played[OURS][1].facts["cache_hit_rate"]
        contest.board.add(part, "cache_hit_rate", OURS, number, hit_rate)
    for name, kind in ((OURS, "cached_passes"), (UNCACHED, "passes")):
        if name in played:
            contest.board.add(part, "passes", name, number, played[name][1].facts[kind])


def sweep(contest: Contest) -> None:
    """Six supervised trainings over rank and reload interval, with and without a common cache.

    Wall time of the whole command, starts of processes and validations included. Each side runs
    once: a sweep is long, and sums up the noise of six runs.
    """
    part, batch_size = "sweep", contest.settings.batch_size
    num_rows = max(1, contest.settings.sweep_rows // batch_size) * batch_size
    material = epoch_material(contest, part, num_rows)
    epoch = material.num_rows // batch_size
    inputs = lay_out_inputs(contest.folder / part / "inputs", material)
    rank = contest.settings.rank
    grid = [
        "-m",
        f"lora.rank={max(1, rank // 2)},{rank},{2 * rank}",
        f"train.reload_interval_steps=0,{epoch}",
        *overrides(contest, EPOCHS * epoch),
    ]
    for name, own in ((UNCACHED, [f"{BUDGET}=0"]), (OURS, [])):
        contest.say(f"six trainings, {name} ...")
        began = time.monotonic()
        run_train_stage(contest.folder / part / name, inputs, [*grid, *own])
        seconds = time.monotonic() - began
        contest.board.add(part, "seconds", name, 1, seconds)
        contest.keep()
        contest.say(f"six trainings, {name}: {seconds:,.0f} s")
