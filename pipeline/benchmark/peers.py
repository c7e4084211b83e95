"""Other programs beside us, on one machine, in one go: `benchmark=peers`."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.benchmark.board import Board, summary
from pipeline.benchmark.contest import Contest
from pipeline.benchmark.contestants import NotMeasured
from pipeline.benchmark.corpus import (
    find_corpus,
    make_material,
    make_model,
    make_tokenizer,
    shortened,
)
from pipeline.benchmark.races import all_blocks, as_installed, large_vocabulary, torch_peft
from pipeline.benchmark.reuse import head, last_quarter, sweep
from pipeline.benchmark.surroundings import surroundings
from pipeline.benchmark.throughput import machine
from pipeline.schema import Peers

PARTS: dict[str, Callable[[Contest], None]] = {
    "all_blocks": all_blocks,
    "as_installed": as_installed,
    "torch_peft": torch_peft,
    "last_quarter": last_quarter,
    "head": head,
    "large_vocabulary": large_vocabulary,
    "sweep": sweep,
    "surroundings": surroundings,
}


def compare(
    settings: Peers, num_steps: int, num_rounds: int, seed: int, tell: Callable[[str], None]
) -> tuple[dict[str, Any], Board]:
    """Measure everything that is asked for; what fails is said, and the rest goes on.

    Nothing is read but the rows, and all files are in a temporary folder. The first step of a
    process is never timed, because it may have to build kernels.

    Args:
        settings: `benchmark.peers`.
        num_steps: of each run.
        num_rounds: repetitions.
        seed: of models, adapters and data order.
        tell: shows a line to a person.

    Returns:
        The metrics, and all that was measured.

    Raises:
        DataError: when the rows that were named cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="tidewheel-peers-") as name:
        contest = set_up(settings, num_steps, num_rounds, seed, Path(name), tell)
        began = time.monotonic()
        for number, part in enumerate(settings.parts, 1):
            contest.place = f"[{number}/{len(settings.parts)} {part}]"
            try:
                PARTS[part](contest)
            except NotMeasured as reason:
                contest.board.miss(part, "", str(reason))
                contest.say(str(reason))
        for part in PARTS.keys() - set(settings.parts):
            contest.board.miss(part, "", f"benchmark.peers.parts leaves out {part}")
        return {
            **summary(contest.board),
            "corpus": contest.corpus.name,
            "train_rows": contest.material.num_rows,
            "seconds": time.monotonic() - began,
            "machine": machine(),
        }, contest.board


def set_up(
    settings: Peers,
    num_steps: int,
    num_rounds: int,
    seed: int,
    folder: Path,
    tell: Callable[[str], None],
) -> Contest:
    """Make the tokenizer, the model and the rows that most parts use."""
    corpus = shortened(find_corpus(settings.rows), settings.num_rows, settings.validation_rows)
    tell(f"{len(corpus.train)} rows to train on: {corpus.name}")
    shape = dataclasses.asdict(settings.model)
    make_tokenizer(corpus, shape["vocab_size"], folder / "tokenizer")
    make_model(folder / "model", shape, folder / "tokenizer", seed)
    material = make_material(folder / "all", folder / "model", corpus, shape)
    return Contest(settings, num_steps, num_rounds, seed, folder, corpus, material, tell)
