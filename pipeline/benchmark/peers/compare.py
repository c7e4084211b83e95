"""Other programs compared with Tidewheel, in one run on one machine: `benchmark=peers`."""

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.benchmark.peers.corpus import (
    find_corpus,
    make_material,
    make_model,
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
from pipeline.benchmark.peers.rounds import Comparison
from pipeline.benchmark.peers.signals import stop_at_signal
from pipeline.benchmark.peers.speed import (
    MEMORY_ROUNDS,
    all_blocks,
    as_installed,
    large_vocabulary,
    torch_peft,
)
from pipeline.benchmark.peers.system import measure_system
from pipeline.config.options import PeersBenchmark
from pipeline.config.stage_paths import Paths
from pipeline.data.tokenize.tokenizer import train_tokenizer


@dataclass(frozen=True)
class Part:
    """A part of the comparison.

    Attributes:
        measure: runs it.
        programs: that it runs.
        num_rounds: how many times it runs each; None: `benchmark.num_runs` times.
    """

    measure: Callable[[Comparison], None]
    programs: tuple[str, ...]
    num_rounds: int | None = None


PARTS = {
    "all_blocks": Part(all_blocks, (OURS, MLX_LM)),
    "as_installed": Part(as_installed, (INSTALLED,)),
    "torch_peft": Part(torch_peft, (FLOAT32, BFLOAT16)),
    "last_quarter": Part(last_quarter, (OURS, UNCACHED, MLX_LM)),
    "head": Part(head, (OURS, UNCACHED)),
    "large_vocabulary": Part(large_vocabulary, (OURS, MLX_LM), MEMORY_ROUNDS),
    "sweep": Part(sweep, (UNCACHED, OURS), 1),
    "surroundings": Part(measure_system, (OURS,)),
}
FOR_LESS = "benchmark.num_runs=1 benchmark.num_steps=8 benchmark.peers.parts=[all_blocks]"
"""Overrides that make the comparison short, for a first look."""


def compare(settings: PeersBenchmark, seed: int, paths: Paths, show: Callable[[str], None]) -> None:
    """Measure the parts that are asked for. A part that fails is reported, and the rest goes on.

    Nothing but the rows is read. Figures are written after each round and after an interruption.
    All other files are in a temporary folder. The first step of a process is never timed, because
    it may have to build kernels.

    Args:
        settings: `benchmark`.
        seed: of models, adapters and data order.
        paths: where metrics, table and picture are written.
        show: shows a line to the user.

    Raises:
        DataError: when the named rows cannot be used.
        Stopped: at a signal.
    """
    show(outline(settings))
    with stop_at_signal(), tempfile.TemporaryDirectory(prefix="tidewheel-peers-") as name:
        comparison = set_up(settings, seed, Path(name), paths, show)
        try:
            measure(comparison)
        except BaseException:
            show(kept(comparison))
            raise


def measure(comparison: Comparison) -> None:
    """Measure part by part. A part that has not ended is listed with that as the reason."""
    reasons, parts = comparison.results.reasons, comparison.settings.parts
    for part in PARTS:
        left_out = f"benchmark.peers.parts leaves out {part}"
        not_done = f"{part} was not done when this was written"
        reasons[part, ""] = not_done if part in parts else left_out
    for number, part in enumerate(parts, 1):
        comparison.part, comparison.label = part, f"[{number}/{len(parts)} {part}]"
        if comparison.attempt(PARTS[part].measure):
            del reasons[part, ""]
        comparison.keep()


def kept(comparison: Comparison) -> str:
    """Write the figures of an interrupted comparison, and describe in a line where they are."""
    if not comparison.results.values:
        return f"{comparison.label} was stopped before anything was measured: nothing is written"
    comparison.keep()
    measured = ", ".join(dict.fromkeys(part for part, _, _ in comparison.results.values))
    return (
        f"{comparison.label} was stopped; the figures of {measured} are in {comparison.paths.out}: "
        "metrics/benchmark.json, plots/peers.csv and plots/peers.png"
    )


def outline(settings: PeersBenchmark) -> str:
    """Describe what will run, and how to make it shorter."""
    parts = {part: PARTS[part] for part in settings.peers.parts}
    lines = [
        f"  {name}: {', '.join(part.programs)}; rounds: {part.num_rounds or settings.num_runs}"
        for name, part in parts.items()
    ]
    head = f"What will be run, {settings.num_steps} steps each unless a part has another number:"
    tail = "With the defaults, all parts take half an hour on two cores. For a first look:"
    return "\n".join([head, *lines, tail, f"  {FOR_LESS}"])


def set_up(
    settings: PeersBenchmark, seed: int, folder: Path, paths: Paths, show: Callable[[str], None]
) -> Comparison:
    """Make the tokenizer, the model and the rows that most parts use, in a folder.

    Raises:
        DataError: when there are no rows, or too few for a batch.
    """
    peers = settings.peers
    corpus = shortened(find_corpus(peers.rows), peers.num_rows, peers.validation_rows)
    require_batch(corpus, peers.batch_size)
    show(f"{len(corpus.train)} rows to train on: {corpus.name}; making tokenizer and model ...")
    train_tokenizer(iter(corpus.train), peers.model.vocab_size, folder / "tokenizer")
    shape = dataclasses.asdict(peers.model)
    make_model(folder / "model", shape, folder / "tokenizer", seed)
    material = make_material(folder / "all", folder / "model", corpus, shape)
    num_steps, num_rounds = settings.num_steps, settings.num_runs
    return Comparison(peers, num_steps, num_rounds, seed, folder, paths, show, corpus, material)
