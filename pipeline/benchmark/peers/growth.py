"""How the time of a step grows with its tokens, its blocks and its vocabulary."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.benchmark.peers.common_settings import SCALE, TARGETS
from pipeline.benchmark.peers.programs import OURS
from pipeline.benchmark.peers.results import slope
from pipeline.benchmark.peers.rounds import Contest
from pipeline.benchmark.throughput import Workload, training_speed
from pipeline.data.store import TokenStore, TokenStoreWriter
from pipeline.device import mx
from pipeline.model.adapters import AdapterSettings, apply
from pipeline.model.scratch import initialize, llama_config

PART = "surroundings"
ROW_TOKENS = (64, 128, 256)
DIVISORS = (4, 2, 1)
"""Of the model's blocks, and of its vocabulary."""
SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": 2}


def growth(contest: Contest) -> None:
    """Growth: the power of each size with which the time of a step grows, all else being equal.

    1 is proportional; below it, something is paid that does not depend on the size; above it,
    something grows with the square.
    """
    shape = dataclasses.asdict(contest.settings.model)
    middle = ROW_TOKENS[1]
    blocks = [max(1, shape["num_hidden_layers"] // divisor) for divisor in DIVISORS]
    vocabularies = [max(4, shape["vocab_size"] // divisor) for divisor in DIVISORS]
    series = {
        "tokens": [(size, shape, size) for size in ROW_TOKENS],
        "blocks": [(size, shape | {"num_hidden_layers": size}, middle) for size in blocks],
        "vocabulary": [(size, shape | {"vocab_size": size}, middle) for size in vocabularies],
    }
    for name, points in series.items():
        for number in range(1, contest.num_rounds + 1):
            seconds = [step_seconds(contest, other, tokens) for _, other, tokens in points]
            sizes = [size for size, _, _ in points]
            contest.board.add(PART, f"slope_with_{name}", OURS, number, slope(sizes, seconds))


def step_seconds(contest: Contest, shape: dict[str, Any], row_tokens: int) -> float:
    """Time a step of random rows of one length."""
    config = llama_config(shape, shape["vocab_size"], SPECIAL_IDS)
    model = initialize(config, contest.seed)
    rank, batch_size = contest.settings.rank, contest.settings.batch_size
    apply(model, AdapterSettings("lora", rank, SCALE * rank, 0.0, None, TARGETS), contest.seed)
    store = random_store(contest.folder / PART / "random", shape["vocab_size"], row_tokens)
    work = Workload(batch_size, None, "bucketed", contest.seed, 1, 1, 1, 2)
    seconds = training_speed(model, store, work)["train_step_seconds"]
    mx.clear_cache()
    return seconds


def random_store(folder: Path, vocab_size: int, row_tokens: int) -> TokenStore:
    """Write rows of random tokens; each gives as many targets as it is named after."""
    generator = np.random.default_rng(0)
    mask = np.arange(row_tokens + 1) > 0
    with TokenStoreWriter(folder, vocab_size) as writer:
        for _ in range(64):
            ids = generator.integers(0, vocab_size, row_tokens + 1).astype(np.int32)
            writer.add(ids, mask, None, None)
    return TokenStore(folder)
