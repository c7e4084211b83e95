"""How likely a model finds text: loss on a fixed set, and which of two options it prefers."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from pipeline.data.batches import Batch
from pipeline.data.store import REMAKE
from pipeline.device import nn
from pipeline.external.json_files import read_own_lines
from pipeline.external.shapes import COUNT, TEXT, Maybe
from pipeline.model.body_and_head import BodyAndHead
from pipeline.model.network.forward import evaluation_mode
from pipeline.objective.chunked_head import counted, evaluate, target_losses

Z_95 = 1.959963984540054
MOST_ROWS = 64
"""Sequences in one batch of options."""


@dataclass(frozen=True)
class DocumentLosses:
    """Cross-entropy per document, in nats, and the number of its targets."""

    documents: Int[np.ndarray, " documents"]
    loss_sums: Float[np.ndarray, " documents"]
    num_targets: Int[np.ndarray, " documents"]

    @property
    def mean(self) -> float:
        """The loss per target over all documents: a quotient of sums, no mean of means."""
        return float(self.loss_sums.sum() / self.num_targets.sum())


@dataclass(frozen=True)
class Share:
    """A proportion with its 95 % Wilson interval (Wilson 1927)."""

    share: float
    low: float
    high: float
    n: int


def document_losses(model: nn.Module, batches: Iterable[Batch]) -> DocumentLosses:
    """Measure every document of a fixed set, without dropout.

    Args:
        model: a causal language model.
        batches: as `evaluation_batches` gives them.
    """
    body_and_head = BodyAndHead.proven(model)
    with evaluation_mode(model):
        found = [losses_of(body_and_head, batch) for batch in batches]
    documents, sums, counts = zip(*found, strict=True)
    return DocumentLosses(np.concatenate(documents), np.concatenate(sums), np.concatenate(counts))


def losses_of(
    body_and_head: BodyAndHead, batch: Batch
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the documents of a batch with the sum of their losses in nats and their targets."""
    losses = masked_losses(body_and_head, batch).astype(np.float64).ravel()
    size, segments = len(batch.documents) + 1, batch.segment_ids.ravel()
    sums = np.bincount(segments, losses, size)[1:]
    counts = np.bincount(segments, batch.loss_mask.ravel(), size)[1:].astype(np.int64)
    return batch.documents, sums, counts


def masked_losses(body_and_head: BodyAndHead, batch: Batch) -> Float[np.ndarray, "rows seq_len"]:
    """Compute the loss of every target in nats, and 0 where none counts."""
    losses, order = target_losses(body_and_head, batch)
    evaluate(order)
    found = np.zeros(batch.loss_mask.shape, np.float32)
    found.flat[counted(batch)] = np.concatenate([*map(np.asarray, losses), found[:0, 0]])
    return found


@dataclass(frozen=True)
class ConflictItem:
    """One question of the conflicts suite, as `data/prepared/conflicts.jsonl` has it.

    Attributes:
        primary: the option that the primary source supports; None in a control.
        counted: the option whose share is reported: `primary`, or in a control the one that the
            source quoted first supports.
    """

    id: str
    cluster: str
    kind: str
    primary: int | None
    counted: int
    prompt_ids: list[int]
    option_ids: list[list[int]]


ITEM_SHAPE = {
    "id": TEXT,
    "cluster": TEXT,
    "kind": TEXT,
    "primary": Maybe(COUNT),
    "counted": COUNT,
    "prompt_ids": [COUNT],
    "option_ids": [[COUNT]],
}


@dataclass(frozen=True)
class Scores:
    """Log-likelihoods in nats, one row per item and one column per option."""

    values: Float[np.ndarray, "items options"]

    @property
    def choices(self) -> Int[np.ndarray, " items"]:
        """Return the likelier option of each item."""
        return self.values.argmax(axis=1)

    @property
    def log_mass(self) -> Float[np.ndarray, " items"]:
        """Return the logarithm of the probability that all options together have."""
        return np.logaddexp.reduce(self.values, axis=1)


def read_items(path: Path) -> list[ConflictItem]:
    """Read the suite that the prepare stage wrote.

    Raises:
        DataError: when a row is not what was written, with its line.
    """
    rows = read_own_lines(path, ITEM_SHAPE, REMAKE)
    return [ConflictItem(**{name: row[name] for name in ITEM_SHAPE}) for row in rows]


def score_items(model: nn.Module, items: Sequence[ConflictItem]) -> Scores:
    """Score every option of every item."""
    pairs = [(item.prompt_ids, item.option_ids) for item in items]
    return Scores(np.array(option_log_likelihoods(model, pairs)))


def primary_share(
    model: nn.Module,
    items: Sequence[ConflictItem],
    rows: int = MOST_ROWS,
    before_batch: Callable[[], None] = lambda: None,
) -> Share:
    """Measure how often a model sides with the primary source; controls do not count.

    Args:
        model: a causal language model.
        items: of the conflicts suite.
        rows: sequences in one batch.
        before_batch: is called before each one.
    """
    contests = [item for item in items if item.primary is not None]
    pairs = [(item.prompt_ids, item.option_ids) for item in contests]
    scores = Scores(np.array(option_log_likelihoods(model, pairs, rows, before_batch)))
    wins = scores.choices == np.array([item.primary for item in contests])
    return wilson(int(wins.sum()), len(contests))


def option_log_likelihoods(
    model: nn.Module,
    items: Sequence[tuple[list[int], list[list[int]]]],
    rows: int = MOST_ROWS,
    before_batch: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Compute the log-likelihood of each option after its prompt, in nats.

    Args:
        model: a causal language model.
        items: token ids of a prompt, and of each of its options.
        rows: sequences in one batch.
        before_batch: is called before each one.
    """
    flat = [(prompt, option) for prompt, options in items for option in options]
    order = sorted(range(len(flat)), key=lambda index: len(flat[index][0]) + len(flat[index][1]))
    scores = np.zeros(len(flat))
    body_and_head = BodyAndHead.proven(model)
    with evaluation_mode(model):
        for start in range(0, len(order), rows):
            before_batch()
            chosen = order[start : start + rows]
            scores[chosen] = continuation_scores(body_and_head, [flat[index] for index in chosen])
    ends = np.cumsum([len(options) for _, options in items])
    return [part.tolist() for part in np.split(scores, ends[:-1])]


def continuation_scores(
    body_and_head: BodyAndHead, pairs: Sequence[tuple[list[int], list[int]]]
) -> Float[np.ndarray, " rows"]:
    """Score continuations of similar length in one padded batch."""
    width = max(len(prompt) + len(option) for prompt, option in pairs) - 1
    inputs = np.zeros((len(pairs), width), dtype=np.int32)
    targets, mask = np.zeros_like(inputs), np.zeros(inputs.shape, dtype=np.float32)
    for row, (prompt, option) in enumerate(pairs):
        ids = [*prompt, *option]
        inputs[row, : len(ids) - 1] = ids[:-1]
        targets[row, : len(ids) - 1] = ids[1:]
        mask[row, len(prompt) - 1 : len(ids) - 1] = 1
    places = np.arange(len(pairs), dtype=np.int64)
    segment_ids = np.repeat(places[:, None] + 1, width, axis=1).astype(np.int32)
    batch = Batch(inputs, targets, mask, segment_ids, mask, places)
    return -masked_losses(body_and_head, batch).sum(axis=1, dtype=np.float64)


def wilson(successes: int, n: int) -> Share:
    """Compute a share and its 95 % Wilson score interval, which holds at 0 and n too."""
    share = successes / n
    spread = Z_95 * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    middle = share + Z_95**2 / (2 * n)
    scale = 1 + Z_95**2 / n
    low, high = (middle - spread) / scale, (middle + spread) / scale
    # Rounding puts the bounds of 0 and n successes on the wrong side of them, by a last bit.
    return Share(share, max(0.0, min(low, share)), min(1.0, max(high, share)), n)
