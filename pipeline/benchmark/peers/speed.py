"""Parts of the comparison in which others train what we train."""

import bisect
import dataclasses
import statistics
from pathlib import Path

from pipeline.benchmark.peers.corpus import joined, make_material, make_model
from pipeline.benchmark.peers.job import WARMUP_STEPS, Job
from pipeline.benchmark.peers.programs import (
    BFLOAT16,
    FLOAT32,
    INSTALLED,
    MLX_LM,
    OURS,
    NotMeasured,
)
from pipeline.benchmark.peers.results import seconds_to_loss
from pipeline.benchmark.peers.rounds import Contest, Played
from pipeline.benchmark.peers.scoring import Scorer
from pipeline.data.tokenize.tokenizer import load_tokenizer

SNAPSHOTS = 12
"""Adapters that we keep up to the step at which the peer ends."""
LONGER = 1.5
"""We go on for so many times the peer's steps, in case its last loss is reached later."""
MEMORY_ROUNDS, MEMORY_STEPS = 2, 2
"""Memory does not vary from round to round; the second one shows it."""
LONG_ROWS = 8


def all_blocks(contest: Contest) -> None:
    """LoRA on all blocks: seconds to the validation loss with which mlx-lm ends.

    The first step of either side does not count: it loads kernels.
    """
    part, num_steps = "all_blocks", contest.num_steps
    interval = max(1, num_steps // SNAPSHOTS)
    job = contest.job(contest.material, num_steps)
    ours = dataclasses.replace(
        job, num_steps=round(LONGER * num_steps), steps_per_snapshot=interval
    )
    scorer = Scorer(contest.material)

    def record(number: int, played: dict[str, Played]) -> None:
        for name, (_, outcome) in played.items():
            contest.board.add(part, "targets_per_second", name, number, outcome.rate())
            contest.board.add(part, "peak_bytes", name, number, outcome.peak_bytes or 0)
        if OURS in played:
            facts = played[OURS][1].facts
            bound = facts["gemm_flops_per_second"] / (2 * facts["passes"])
            contest.board.add(part, "roofline_targets_per_second", OURS, number, bound)
        if OURS in played and MLX_LM in played:
            record_seconds(contest, part, number, played, scorer)

    contest.hold(part, {OURS: ours, MLX_LM: job}, contest.num_rounds, record)


def record_seconds(
    contest: Contest, part: str, number: int, played: dict[str, Played], scorer: Scorer
) -> None:
    """Find when we are at the loss with which the peer ends, both by our score of their adapters.

    Of our snapshots only those are scored that a bisection asks for.
    """
    (theirs, their_outcome), (ours, our_outcome) = played[MLX_LM], played[OURS]
    contest.say(f"round {number}: scoring adapters ...")
    target = scorer.loss(Path(theirs.output))
    steps = range(0, ours.num_steps + 1, ours.steps_per_snapshot)

    def loss(step: int) -> float:
        return scorer.loss(Path(ours.output) / f"step-{step:08d}" if step else None)

    index = bisect.bisect_left(steps, True, key=lambda step: loss(step) <= target)
    around = steps[max(0, index - 1) : index + 1]
    curve = [(sum(our_outcome.seconds[WARMUP_STEPS:step]), loss(step)) for step in around]
    contest.board.add(part, "validation_loss", MLX_LM, number, target)
    try:
        seconds = seconds_to_loss(curve, target)
    except NotMeasured as reason:
        contest.board.miss(part, "", str(reason))
        contest.say(f"round {number}: {reason}")
        return
    contest.board.add(part, "seconds_to_loss", OURS, number, seconds)
    theirs_seconds = sum(their_outcome.seconds[WARMUP_STEPS:])
    contest.board.add(part, "seconds_to_loss", MLX_LM, number, theirs_seconds)
    contest.say(
        f"round {number}: {target:.4f} after {seconds:.1f} s, mlx_lm {theirs_seconds:.1f} s"
    )


def as_installed(contest: Contest) -> None:
    """mlx-lm with the BLAS of MLX's wheel: a few steps, for their rate."""
    job = contest.job(contest.material, WARMUP_STEPS + contest.settings.installed_steps)
    hold_for_rate(contest, "as_installed", {INSTALLED: job})


def torch_peft(contest: Contest) -> None:
    """Torch with peft, in both types: enough steps for their rate."""
    job = contest.job(contest.material, WARMUP_STEPS + contest.settings.torch_steps)
    hold_for_rate(contest, "torch_peft", {FLOAT32: job, BFLOAT16: job})


def hold_for_rate(contest: Contest, part: str, jobs: dict[str, Job]) -> None:
    """Hold rounds of which only the rate is wanted."""

    def record(number: int, played: dict[str, Played]) -> None:
        for name, (_, outcome) in played.items():
            contest.board.add(part, "targets_per_second", name, number, outcome.rate())

    contest.hold(part, jobs, contest.num_rounds, record)


def large_vocabulary(contest: Contest) -> None:
    """Memory with many tokens in the vocabulary, rows of a thousand tokens, and checkpointing."""
    part, folder = "large_vocabulary", contest.folder / "long"
    shape = dataclasses.asdict(contest.settings.large_vocabulary)
    tokenizer = contest.folder / "tokenizer"
    make_model(folder / "model", shape, tokenizer, contest.seed)
    num_rows = max(LONG_ROWS, contest.settings.batch_size)
    texts = joined(
        contest.corpus, load_tokenizer(tokenizer), contest.settings.long_row_tokens, num_rows
    )
    material = make_material(folder, folder / "model", texts, shape)
    job = dataclasses.replace(contest.job(material, MEMORY_STEPS), grad_checkpoint=True)

    def record(number: int, played: dict[str, Played]) -> None:
        for name, (_, outcome) in played.items():
            contest.board.add(part, "peak_bytes", name, number, outcome.peak_bytes or 0)
            contest.board.add(
                part, "step_seconds", name, number, statistics.median(outcome.seconds)
            )
            if name == OURS:
                floor = outcome.facts["floor_bytes"]
                contest.board.add(part, "floor_bytes", OURS, number, floor)

    contest.hold(part, {OURS: job, MLX_LM: job}, MEMORY_ROUNDS, record)
