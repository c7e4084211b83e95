"""Other programs compared with Tidewheel, in one run on one machine: `benchmark=peers`."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.benchmark.bars import write_outputs
from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.corpus import (
    find_corpus,
    make_material,
    make_model,
    make_tokenizer,
    require_batch,
    shortened,
)
from pipeline.benchmark.peers.prefix_cache import head, last_quarter, sweep
from pipeline.benchmark.peers.programs import (
    BFLOAT16,
    FLOAT32,
    INSTALLED,
    MLX_LM,
    OURS,
    UNCACHED,
)
from pipeline.benchmark.peers.results import summary
from pipeline.benchmark.peers.rounds import Comparison
from pipeline.benchmark.peers.signals import StopAtSignal
from pipeline.benchmark.peers.speed import (
    MEMORY_ROUNDS,
    all_blocks,
    as_installed,
    large_vocabulary,
    torch_peft,
)
from pipeline.benchmark.peers.system import measure_system
from pipeline.benchmark.throughput import machine
from pipeline.config.schema import Peers
from pipeline.config.stage import Paths
from pipeline.errors import PipelineError

PARTS: dict[str, Callable[[Comparison], None]] = {
    "all_blocks": all_blocks,
    "as_installed": as_installed,
    "torch_peft": torch_peft,
    "last_quarter": last_quarter,
    "head": head,
    "large_vocabulary": large_vocabulary,
    "sweep": sweep,
    "surroundings": measure_system,
}
PROGRAMS_OF = {
    "all_blocks": (OURS, MLX_LM),
    "as_installed": (INSTALLED,),
    "torch_peft": (FLOAT32, BFLOAT16),
    "last_quarter": (OURS, UNCACHED, MLX_LM),
    "head": (OURS, UNCACHED),
    "large_vocabulary": (OURS, MLX_LM),
    "sweep": (UNCACHED, OURS),
    "surroundings": (OURS,),
}
"""The programs of each part, for the outline."""


FOR_LESS = "benchmark.num_runs=1 benchmark.num_steps=8 benchmark.peers.parts=[all_blocks]"
"""Overrides that make it short, for a first look."""


def compare(
    settings: Peers,
    num_steps: int,
    num_rounds: int,
    seed: int,
    paths: Paths,
    tell: Callable[[str], None],
) -> None:
    """Measure all parts that are asked for; a part that fails is reported, and the rest goes on.

    Only the rows are read. Figures are written after each round and after an interruption; all
    other files are in a temporary folder. The first step of a process is never timed, because it
    may have to build kernels.

    Args:
        settings: `benchmark.peers`.
        num_steps: of each run.
        num_rounds: how many times each program runs.
        seed: of models, adapters and data order.
        paths: where metrics, table and picture are written.
        tell: shows a line to the user.

    Raises:
        DataError: when the named rows cannot be used.
        Stopped: at a signal.
    """
    tell(outline(settings, num_steps, num_rounds))
    with StopAtSignal(), tempfile.TemporaryDirectory(prefix="tidewheel-peers-") as name:
        comparison = set_up(settings, num_steps, num_rounds, seed, Path(name), tell)
        began, here = time.monotonic(), machine()

        def keep() -> None:
            facts = {
                "corpus": comparison.corpus.name,
                "train_rows": comparison.material.num_rows,
                "seconds": time.monotonic() - began,
                "machine": here,
            }
            rows = list(comparison.results.rows())
            write_outputs(paths, summary(comparison.results) | facts, rows)

        comparison.keep = keep
        try:
            measure(comparison)
        except BaseException:
            tell(kept(comparison, paths))
            raise


def measure(comparison: Comparison) -> None:
    """Measure part by part."""
    results, parts = comparison.results, comparison.settings.parts
    for part in parts:
        results.begin(part)
    for part in [part for part in PARTS if part not in parts]:
        results.note_missing(part, "", f"benchmark.peers.parts leaves out {part}")
    for number, part in enumerate(parts, 1):
        comparison.place = f"[{number}/{len(parts)} {part}]"
        try:
            PARTS[part](comparison)
        except (NotMeasured, PipelineError) as reason:
            results.note_missing(part, "", str(reason))
            comparison.say(f"failed, and the rest goes on: {reason}")
        results.end(part)
        comparison.keep()


def kept(comparison: Comparison, paths: Paths) -> str:
    """Write the figures of an interrupted comparison, and return a line that names their place."""
    if not comparison.results.values:
        return f"{comparison.place} ended before anything was measured: nothing is written"
    comparison.keep()
    measured = ", ".join(dict.fromkeys(part for part, _, _ in comparison.results.values))
    return (
        f"{comparison.place} ended before its time; what was measured of {measured} is kept in "
        f"{paths.out}: metrics/benchmark.json, plots/peers.csv and plots/peers.png"
    )


def outline(settings: Peers, num_steps: int, num_rounds: int) -> str:
    """Describe what will run, and how to make it shorter."""
    rounds = {"large_vocabulary": MEMORY_ROUNDS, "sweep": 1}
    lines = [
        f"  {part}: {', '.join(PROGRAMS_OF[part])}; rounds: {rounds.get(part, num_rounds)}"
        for part in settings.parts
    ]
    head = f"What will be run, {num_steps} steps each unless a part has another number:"
    tail = "With the defaults, all parts take half an hour on two cores. For a first look:"
    return "\n".join([head, *lines, tail, f"  {FOR_LESS}"])


def set_up(
    settings: Peers,
    num_steps: int,
    num_rounds: int,
    seed: int,
    folder: Path,
    tell: Callable[[str], None],
) -> Comparison:
    """Make the tokenizer, the model and the rows that most parts use.

    Raises:
        DataError: when there are no rows, or too few for a batch.
    """
    corpus = shortened(find_corpus(settings.rows), settings.num_rows, settings.validation_rows)
    require_batch(corpus, settings.batch_size)
    tell(f"{len(corpus.train)} rows to train on: {corpus.name}; making tokenizer and model ...")
    shape = dataclasses.asdict(settings.model)
    make_tokenizer(corpus, shape["vocab_size"], folder / "tokenizer")
    make_model(folder / "model", shape, folder / "tokenizer", seed)
    material = make_material(folder / "all", folder / "model", corpus, shape)
    return Comparison(settings, num_steps, num_rounds, seed, folder, corpus, material, tell)
