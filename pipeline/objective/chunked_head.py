"""Cross-entropy over the vocabulary without its logits: they are made, used and dropped by chunks.

A chunk gives its losses and, in the same pass, their gradient by its hidden states (and by the
weights of the head where these are trained). So the backward pass never comes back to the logits,
and the array of all tokens times the whole vocabulary never exists. Only rows whose target counts
enter. (The idea is that of arXiv 2410.10989 §3.2.)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from pipeline.data.batches import Batch
from pipeline.device import is_cpu, mx
from pipeline.model.body_and_head import BodyAndHead
from pipeline.objective.cross_entropy import Losses, losses_and_slopes, token_losses
from pipeline.sums import sum_all

CHUNK_LOGITS_CPU, CHUNK_LOGITS_GPU = 1 << 21, 1 << 24
"""Logits of a chunk. Each chunk reads the whole matrix of the head, which is little next to the
work on a CPU; a GPU multiplies with the matrix as fast as it reads it at some 100 rows."""
LEAST_ROWS = 32
CHUNK_COPIES = 3
"""Of the logits of a chunk, in float32: scores, probabilities, slopes."""

EvalOrder = list[list[mx.array]]
"""Groups of arrays, each to be evaluated before the next one, so that chunks do not overlap."""


def chunk_rows(vocab_size: int, num_trained: int = 0, num_streams: int = 1) -> int:
    """Choose how many rows a chunk has.

    Args:
        vocab_size: logits of a row.
        num_trained: weights of the head that are trained. Each chunk adds a gradient as large as
            they are, beside which as many logits are no burden.
        num_streams: chunks that are worked on side by side, and share the memory of one.
    """
    together = CHUNK_LOGITS_CPU if is_cpu() else CHUNK_LOGITS_GPU
    logits = max(together // num_streams, num_trained)
    return max(LEAST_ROWS, logits // vocab_size)


def evaluate(order: EvalOrder) -> None:
    """Evaluate one group after the other, and empty the list: each is forgotten before the next.

    In one evaluation the device may lag behind by many chunks, whose logits would be held.
    """
    while order:
        mx.eval(order.pop(0))


def counted(batch: Batch) -> Int[np.ndarray, " targets"]:
    """Find the positions of a batch whose target counts, row after row."""
    return np.flatnonzero(batch.loss_mask)


def counted_states(body_and_head: BodyAndHead, batch: Batch) -> Float[mx.array, "targets width"]:
    """Run a model up to its head, and pick the hidden states whose target counts."""
    segment_ids = mx.array(batch.segment_ids) if batch.is_packed else None
    hidden = body_and_head.hidden(mx.array(batch.inputs), segment_ids).flatten(0, 1)
    places = counted(batch)
    return hidden if len(places) == len(hidden) else hidden[mx.array(places.astype(np.int32))]


def target_losses(
    body_and_head: BodyAndHead, batch: Batch
) -> tuple[Sequence[Float[mx.array, " chunk"]], EvalOrder]:
    """Return the losses of the targets that count in nats, chunk by chunk; no gradient.

    Returns:
        The losses, in the order of `counted`, and the order in which to evaluate them.
    """
    rows, targets = counted_states(body_and_head, batch), batch.targets.ravel()[counted(batch)]
    size = chunk_rows(body_and_head.vocab_size)
    losses = [
        token_losses(
            body_and_head.head(rows[start : start + size]), mx.array(targets[start : start + size])
        )
        for start in range(0, len(targets), size)
    ]
    return losses, [[rows], *([each] for each in losses)]


def loss_sums(
    body_and_head: BodyAndHead, batch: Batch, label_smoothing: float = 0.0, num_streams: int = 1
) -> tuple[Float[mx.array, ""], Float[mx.array, ""], EvalOrder]:
    """Sum the cross-entropy over the targets that count, as it is minimised and as it is reported.

    Sums and the count of targets are kept apart, so that unequal batches can be added before
    dividing: a mean of means would favour short answers.

    Args:
        body_and_head: of the model.
        batch: `loss_mask` says which targets count, `weights` how much.
        label_smoothing: share of each target that is spread over the vocabulary.
        num_streams: batches that are worked on side by side, of which this is one.

    Returns:
        The weighted and smoothed sum, which is minimised and can be differentiated; the plain sum;
        both in nats; and what to evaluate before the gradients, in order.
    """
    rows, places = counted_states(body_and_head, batch), counted(batch)
    if not len(places):
        return mx.array(0.0), mx.array(0.0), []
    chunks = Chunks(body_and_head, label_smoothing, num_streams)
    targets, weights = (part.ravel()[places] for part in (batch.targets, batch.weights))
    gradient, order = chunks.run(rows, targets, weights)
    minimised = mx.stop_gradient(chunks.minimised) + carry(rows, mx.stop_gradient(gradient))
    for value, slope in zip(chunks.weights.values(), chunks.weight_gradients, strict=True):
        minimised = minimised + carry(value, mx.stop_gradient(slope.astype(value.dtype)))
    return minimised, chunks.plain, [[rows], *order]


class Chunks:
    """Goes through the rows of a batch chunk by chunk.

    Attributes:
        minimised: sum of what is minimised so far, in nats.
        plain: sum of what is reported so far, in nats.
        weights: what of the head is trained, by name.
        weight_gradients: of those, summed so far in float32.
    """

    def __init__(
        self, body_and_head: BodyAndHead, label_smoothing: float, num_streams: int
    ) -> None:
        self.body_and_head, self.label_smoothing = body_and_head, label_smoothing
        self.size = chunk_rows(body_and_head.vocab_size, body_and_head.num_trained, num_streams)
        self.weights = body_and_head.trainable()
        self.minimised = self.plain = mx.array(0.0)
        self.weight_gradients: list[mx.array] = []

    def run(
        self,
        rows: Float[mx.array, "rows width"],
        targets: Int[np.ndarray, " rows"],
        weights: Float[np.ndarray, " rows"],
    ) -> tuple[Float[mx.array, "rows width"], EvalOrder]:
        """Return the gradient of the minimised sum by all rows, and the order that makes it."""
        rows, gradients, order = mx.stop_gradient(rows), [], []
        for start in range(0, len(targets), self.size):
            part = slice(start, start + self.size)
            gradient = self.add(rows[part], mx.array(targets[part]), mx.array(weights[part]))
            gradients.append(gradient)
            order.append([gradient, self.minimised, self.plain, *self.weight_gradients])
        return mx.concatenate(gradients), order

    def add(
        self,
        rows: Float[mx.array, "chunk width"],
        targets: Int[mx.array, " chunk"],
        weights: Float[mx.array, " chunk"],
    ) -> Float[mx.array, "chunk width"]:
        """Add a chunk to the sums; give the gradient by its rows.

        A row's gradient depends on its own loss alone, so where no other gradient is wanted the
        weight is multiplied into it, and not into each of its logits.
        """
        own = self.weights

        def total(arrays: list[mx.array]) -> tuple[mx.array, Losses]:
            rows, *values = arrays
            logits = self.body_and_head.head_with(rows, own, values)
            found = losses_and_slopes(mx.stop_gradient(logits), targets, self.label_smoothing)
            slope = found.slope * weights[:, None] if own else found.slope
            return carry(logits, slope.astype(logits.dtype)), found

        frozen = [mx.stop_gradient(value) for value in own.values()]
        (_, found), (gradient, *others) = mx.value_and_grad(total)([rows, *frozen])
        self.minimised = self.minimised + sum_all(found.minimised * weights)
        self.plain = self.plain + sum_all(found.plain)
        others = [value.astype(mx.float32) for value in others]
        sums = self.weight_gradients or [None] * len(others)
        self.weight_gradients = [
            value if total is None else total + value
            for total, value in zip(sums, others, strict=True)
        ]
        return gradient if own else (gradient * weights[:, None]).astype(gradient.dtype)


def stand_in(value: mx.array, slope: mx.array) -> mx.array:
    """Stand for a sum whose gradient by a value is known; it is never computed itself.

    The gradient is passed on unchanged, not multiplied by that of the sum, which must be 1: a pass
    over all logits less.
    """
    del value, slope
    return mx.zeros(())


carry: Any = mx.custom_function(stand_in)


@carry.vjp
def carried(primals: Sequence[mx.array], cotangent: mx.array, output: mx.array) -> list[mx.array]:
    """Return the known gradient."""
    del cotangent, output
    _, slope = primals
    return [slope, mx.zeros_like(slope)]
