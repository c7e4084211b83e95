"""Parts of the comparison in which other programs train the same as Tidewheel."""

import bisect
import dataclasses
import statistics
from pathlib import Path

import numpy as np

from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.corpus import Material, joined, make_material, make_model
from pipeline.benchmark.peers.job import WARMUP_STEPS, Job
from pipeline.benchmark.peers.programs import (
    BFLOAT16,
    FLOAT32,
    INSTALLED,
    MLX_LM,
    OURS,
)
from pipeline.benchmark.peers.results import seconds_to_loss
from pipeline.benchmark.peers.rounds import Comparison, Finished
from pipeline.data.batches import evaluation_batches
from pipeline.data.store import TokenStore
from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.model.adapters import load_adapter
from pipeline.model.base import load_base
from pipeline.objective.likelihood import document_losses

SNAPSHOTS = 12
"""Adapters that we save up to the last step of the other program."""
LONGER = 1.5
"""Our steps as a multiple of the other program's, in case we reach its last loss later."""
MEMORY_ROUNDS, MEMORY_STEPS = 2, 2
"""Memory hardly varies between rounds; the second round shows that."""
LONG_ROWS = 8
BATCH_TOKENS = 2048
"""Of a batch that is scored."""


class Scorer:
    """Scores the adapters of every program by our loss on the held-out rows.

    Args:
        material: the model and the rows.
    """

    def __init__(self, material: Material) -> None:
        self.material = material
        self.store = TokenStore(material.prepared / "validation")
        self._losses = dict[Path | None, float]()

    def loss(self, adapter: Path | None) -> float:
        """Return the loss in nats per target; of the base model where `adapter` is None."""
        if adapter not in self._losses:
            model = load_base(self.material.model, "auto").model
            if adapter is not None:
                load_adapter(model, adapter)
            batches = evaluation_batches(
                self.store,
                np.arange(len(self.store)),
                arrangement="bucketed",
                width=int(self.store.lengths.max()),
                batch_tokens=BATCH_TOKENS,
            )
            self._losses[adapter] = document_losses(model, batches).mean
        return self._losses[adapter]


def all_blocks(comparison: Comparison) -> None:
    """LoRA on all blocks: seconds to the last validation loss of mlx-lm.

    The first step of each program does not count, because it loads kernels.
    """
    part, num_steps = "all_blocks", comparison.num_steps
    interval = max(1, num_steps // SNAPSHOTS)
    job = comparison.job(comparison.material, num_steps)
    ours = dataclasses.replace(
        job, num_steps=round(LONGER * num_steps), steps_per_snapshot=interval
    )
    scorer = Scorer(comparison.material)

    def record(number: int, finished: dict[str, Finished]) -> None:
        for name, (_, outcome) in finished.items():
            comparison.results.add(part, "targets_per_second", name, number, outcome.rate())
            comparison.results.add(part, "peak_bytes", name, number, outcome.peak_bytes)
        if OURS in finished:
            facts = finished[OURS][1].facts
            bound = facts["gemm_flops_per_second"] / (2 * facts["passes"])
            comparison.results.add(part, "roofline_targets_per_second", OURS, number, bound)
        if OURS in finished and MLX_LM in finished:
            record_seconds(comparison, part, number, finished, scorer)

    comparison.run_rounds(part, {OURS: ours, MLX_LM: job}, comparison.num_rounds, record)


def record_seconds(
    comparison: Comparison, part: str, number: int, finished: dict[str, Finished], scorer: Scorer
) -> None:
    """Find when we reach the last loss of mlx-lm, both measured with our scorer.

    A bisection chooses which of our snapshots are scored.
    """
    (theirs, their_outcome), (ours, our_outcome) = finished[MLX_LM], finished[OURS]
    comparison.say(f"round {number}: scoring adapters ...")
    target = scorer.loss(Path(theirs.output))
    steps = range(0, ours.num_steps + 1, ours.steps_per_snapshot)

    def loss(step: int) -> float:
        return scorer.loss(Path(ours.output) / f"step-{step:08d}" if step else None)

    index = bisect.bisect_left(steps, True, key=lambda step: loss(step) <= target)
    around = steps[max(0, index - 1) : index + 1]
    curve = [(sum(our_outcome.seconds[WARMUP_STEPS:step]), loss(step)) for step in around]
    comparison.results.add(part, "validation_loss", MLX_LM, number, target)
    try:
        seconds = seconds_to_loss(curve, target)
    except NotMeasured as reason:
        comparison.results.note_missing(part, "", str(reason))
        comparison.say(f"round {number}: {reason}")
        return
    comparison.results.add(part, "seconds_to_loss", OURS, number, seconds)
    theirs_seconds = sum(their_outcome.seconds[WARMUP_STEPS:])
    comparison.results.add(part, "seconds_to_loss", MLX_LM, number, theirs_seconds)
    comparison.say(
        f"round {number}: {target:.4f} after {seconds:.1f} s, mlx_lm {theirs_seconds:.1f} s"
    )


def as_installed(comparison: Comparison) -> None:
    """Run mlx-lm with the BLAS of MLX's wheel: a few steps, for their rate."""
    job = comparison.job(comparison.material, WARMUP_STEPS + comparison.settings.installed_steps)
    run_for_rate(comparison, "as_installed", {INSTALLED: job})


def torch_peft(comparison: Comparison) -> None:
    """Run torch with peft, in both types: enough steps for their rate."""
    job = comparison.job(comparison.material, WARMUP_STEPS + comparison.settings.torch_steps)
    run_for_rate(comparison, "torch_peft", {FLOAT32: job, BFLOAT16: job})


def run_for_rate(comparison: Comparison, part: str, jobs: dict[str, Job]) -> None:
    """Run rounds of which only the rate is recorded."""

    def record(number: int, finished: dict[str, Finished]) -> None:
        for name, (_, outcome) in finished.items():
            comparison.results.add(part, "targets_per_second", name, number, outcome.rate())

    comparison.run_rounds(part, jobs, comparison.num_rounds, record)


def large_vocabulary(comparison: Comparison) -> None:
    """Memory with many tokens in the vocabulary, rows of a thousand tokens, and checkpointing."""
    part, folder = "large_vocabulary", comparison.folder / "long"
    shape = dataclasses.asdict(comparison.settings.large_vocabulary)
    tokenizer = comparison.folder / "tokenizer"
    make_model(folder / "model", shape, tokenizer, comparison.seed)
    num_rows = max(LONG_ROWS, comparison.settings.batch_size)
    texts = joined(
        comparison.corpus, load_tokenizer(tokenizer), comparison.settings.long_row_tokens, num_rows
    )
    material = make_material(folder, folder / "model", texts, shape)
    job = dataclasses.replace(comparison.job(material, MEMORY_STEPS), grad_checkpoint=True)

    def record(number: int, finished: dict[str, Finished]) -> None:
        for name, (_, outcome) in finished.items():
            comparison.results.add(part, "peak_bytes", name, number, outcome.peak_bytes)
            comparison.results.add(
                part, "step_seconds", name, number, statistics.median(outcome.seconds)
            )
            if name == OURS:
                floor = outcome.facts["floor_bytes"]
                comparison.results.add(part, "floor_bytes", OURS, number, floor)

    comparison.run_rounds(part, {OURS: job, MLX_LM: job}, MEMORY_ROUNDS, record)
