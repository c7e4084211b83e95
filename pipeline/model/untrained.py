"""Tokens whose rows of the output head were never told apart, which a frozen head cannot learn.

Tokens that a base never saw keep the rows they started with. Their logits are always alike, so that
each gets at most its share of what they get together.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from pipeline.device import mx
from pipeline.external.json_files import read_foreign
from pipeline.external.shapes import COUNT, TEXT, Maybe
from pipeline.model.body_and_head import PROBE, BodyAndHead
from pipeline.model.network.forward import evaluation_mode
from pipeline.model.source.folder import FOREIGN

NUM_PROBES = 16
TOLERANCE = 3e-3
"""Distance of two rows as a share of the deviation of all. Of stories260K and SmolLM2, rows that
were never trained are below 1e-3; of tokens that were, the nearest are 1e-2 and 0.39 apart."""
NUM_NEIGHBOURS = 32
MOST_NAMED = 5
TOKENIZER_SHAPE = {"model": {}, "added_tokens": Maybe([{"id": COUNT, "content": TEXT}])}
REMEDY = (
    "Train the head too (lora.targets with lm_head or embed_tokens, or train.mode=head), or take a "
    "base that knows these tokens."
)


def untrained_notice(body_and_head: BodyAndHead, targets: np.ndarray, base: Path) -> str | None:
    """Describe the targets that a frozen head cannot tell from other tokens; None without any.

    Args:
        body_and_head: the model as it is trained.
        targets: ids of the tokens that are to be predicted.
        base: models/base, whose tokenizer names the tokens.
    """
    if body_and_head.body is None or body_and_head.num_trained:
        return None
    groups = list(alike(probed(body_and_head), targets))
    if not groups:
        return None
    names = token_names(base)
    lines = [
        f"  {names.get(token, '')!r} (id {token}): its row is that of {others} others; while the "
        f"head is frozen, its loss stays above ln({others + 1}) = {math.log(others + 1):.2f} nats"
        for token, others in groups[:MOST_NAMED]
    ]
    more = [f"  and {len(groups) - MOST_NAMED} more"] if len(groups) > MOST_NAMED else []
    headline = "Targets whose rows of the head are those of tokens that were never trained:"
    return "\n".join([headline, *lines, *more, REMEDY])


def probed(body_and_head: BodyAndHead) -> Float64[np.ndarray, "vocab_size probes"]:
    """Compute the logits of all tokens for random hidden states."""
    with evaluation_mode(body_and_head.model):  # dropout would draw random numbers
        like = body_and_head.hidden(mx.array(PROBE))
        shape = (NUM_PROBES, like.shape[-1])
        hidden = mx.random.normal(shape, key=mx.random.key(0)).astype(like.dtype)
        logits = body_and_head.head(hidden).astype(mx.float32)
    return np.array(logits).T.astype(np.float64)


def alike(
    logits: Float64[np.ndarray, "vocab_size probes"], targets: Int64[np.ndarray, " targets"]
) -> Iterator[tuple[int, int]]:
    """Yield the targets whose logits are those of other tokens, and how many others there are."""
    scale = np.sqrt(logits.var(axis=0).sum())
    order = np.argsort(logits[:, 0], kind="stable")
    near = np.zeros(len(order), bool)
    for step in range(1, min(NUM_NEIGHBOURS, len(order))):
        close = np.linalg.norm(logits[order[step:]] - logits[order[:-step]], axis=1)
        close = close <= TOLERANCE * scale
        near[order[step:][close]] = near[order[:-step][close]] = True
    for token in targets[near[targets]].tolist():
        distances = np.linalg.norm(logits - logits[token], axis=1)
        yield token, int((distances <= TOLERANCE * scale).sum()) - 1


def token_names(base: Path) -> dict[int, str]:
    """Read the text of each token from tokenizer.json; of some kinds, only of the added tokens."""
    path = base / "tokenizer.json"
    if not path.is_file():
        return {}
    tokenizer = read_foreign(path, TOKENIZER_SHAPE, FOREIGN)
    vocabulary = tokenizer["model"].get("vocab") or {}
    added = {token["id"]: token["content"] for token in tokenizer.get("added_tokens") or ()}
    if isinstance(vocabulary, dict):
        return {number: piece for piece, number in vocabulary.items()} | added
    return {number: piece for number, (piece, *_) in enumerate(vocabulary)} | added
