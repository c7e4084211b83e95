"""Which documents make up a step, and how they lie in its rows.

Which documents: a pure function of (seed, epoch, step), so that a resumed run asks for the step it
needs and no state is kept. How they lie: bucketed by length or packed, whichever is faster on the
device; a document's own tokens, and so its loss, are the same in both.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt64

from pipeline.data.store import TokenStore
from pipeline.errors import ConfigError

Arrangement = Literal["bucketed", "packed"]
POOL_BATCHES = 16
BUCKET_TOKENS = 16
MAX_WIDTHS = 64
PACKED_TOKENS = 128
EVALUATION_POOL_DOCUMENTS = 4096


@dataclass(frozen=True)
class Batch:
    """Rows of documents; padding is 0 everywhere.

    Attributes:
        inputs: token ids; a document of n tokens takes n - 1 places.
        targets: the token after each input.
        loss_mask: 1 where the target counts; 0 on prompts and padding.
        segment_ids: k where the place belongs to the k-th of `documents`, from 1.
        weights: the weight of the document times that of the target within it.
        documents: which documents of the store these are.
        num_lanes: how many batches, of which this is one, are the parts of one micro-batch that
            are worked on side by side.
    """

    inputs: Int32[np.ndarray, "rows seq_len"]
    targets: Int32[np.ndarray, "rows seq_len"]
    loss_mask: Float32[np.ndarray, "rows seq_len"]
    segment_ids: Int32[np.ndarray, "rows seq_len"]
    weights: Float32[np.ndarray, "rows seq_len"]
    documents: Int64[np.ndarray, " documents"]
    num_lanes: int = 1

    @property
    def num_targets(self) -> int:
        """Count the targets."""
        return int(np.count_nonzero(self.loss_mask))

    @property
    def weight_sum(self) -> float:
        """Add up the weights of the targets."""
        return float((self.weights * self.loss_mask).sum(dtype=np.float64))

    @property
    def occupancy(self) -> float:
        """Give the share of places that hold a document and not padding."""
        return float(np.count_nonzero(self.segment_ids) / self.segment_ids.size)

    @property
    def is_packed(self) -> bool:
        """Tell whether a row holds several documents, so that attention needs `segment_ids`."""
        return len(self.documents) > len(self.inputs)


def resolve_arrangement(asked: str, fused_attention: bool) -> Arrangement:
    """Turn `auto` into what runs fastest: packs where attention is one kernel, else buckets.

    Without such a kernel a packed row pays for the scores of its whole width squared.
    """
    if asked == "auto":
        return "packed" if fused_attention else "bucketed"
    assert asked in ("bucketed", "packed"), asked
    return asked


class BatchPlan:
    """Gives each step its documents.

    An epoch uses every document once. Documents are shuffled, pooled by 16 batches, sorted by
    length within a pool so that a batch holds like lengths, cut into batches, and the batches are
    shuffled. Membership is new every epoch. A batch at the end of a pool may be smaller.

    With `probabilities` an epoch draws as many documents as there are, each as often as its share
    says, rounded up or down (systematic resampling, Kitagawa 1996 §A.1), instead of each once.

    Args:
        lengths: tokens per document.
        seed: of the order.
        batch_size: documents a step; or
        batch_tokens: tokens a step, at most, padding not counted.
        probabilities: relative frequency of each document; None: all the same.

    Raises:
        ConfigError: when a document alone is longer than `batch_tokens`.
    """

    def __init__(
        self,
        lengths: Int64[np.ndarray, " documents"],
        *,
        seed: int,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        probabilities: Float32[np.ndarray, " documents"] | None = None,
    ) -> None:
        assert (batch_size is None) != (batch_tokens is None), "one of the two says what fits"
        assert len(lengths), "a plan needs documents"
        self.lengths, self.seed = lengths, seed
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self.probabilities = probabilities
        self._epoch, self._batches = -1, list[Int64[np.ndarray, " documents"]]()
        self._ends = [0]  # steps before the end of each epoch that was asked for
        longest = int(lengths.max())
        if batch_tokens is not None and longest > batch_tokens:
            raise ConfigError(
                f"train.batch_tokens={batch_tokens}: the longest document has {longest} tokens.\n"
                f"Set it to {longest} or more, or shorten documents with data.max_seq_len."
            )

    def documents(self, step: int) -> Int64[np.ndarray, " documents"]:
        """Give the documents of a step; the first step is 1."""
        epoch, index = self.locate(step)
        return self._batches_of(epoch)[index]

    def locate(self, step: int) -> tuple[int, int]:
        """Give the epoch of a step and its place in it, both from 0."""
        assert step >= 1, "steps count from 1"
        if self.batch_size is not None:
            return divmod(step - 1, self.steps_in_epoch(0))
        while self._ends[-1] < step:
            self._ends.append(self._ends[-1] + self.steps_in_epoch(len(self._ends) - 1))
        epoch = int(np.searchsorted(self._ends, step)) - 1
        return epoch, step - 1 - self._ends[epoch]

    def steps_in_epoch(self, epoch: int) -> int:
        """Count the steps of an epoch; under `batch_tokens` epochs may differ."""
        if self.batch_size is not None:
            return -(-len(self.lengths) // self.batch_size)
        return len(self._batches_of(epoch))

    def _batches_of(self, epoch: int) -> list[Int64[np.ndarray, " documents"]]:
        if epoch != self._epoch:
            count = len(self.lengths)
            num_keys = 2 * count if self.probabilities is None else 3 * count + 1
            keys = random_keys(self.seed, epoch, num_keys)
            documents = np.argsort(keys[:count], kind="stable")
            if self.probabilities is not None:
                drawn = resample(self.probabilities[documents], keys[-1])
                documents = documents[drawn][np.argsort(keys[2 * count : -1], kind="stable")]
            batches = [batch for pool in self._pools(documents) for batch in self._cut(pool)]
            order = np.argsort(keys[count:][: len(batches)], kind="stable")
            self._epoch, self._batches = epoch, [batches[index] for index in order]
        return self._batches

    def _pools(
        self, documents: Int64[np.ndarray, " documents"]
    ) -> Iterator[Int64[np.ndarray, " pool"]]:
        size = self.batch_size or max(1, int((self.batch_tokens or 0) / self.lengths.mean()))
        for start in range(0, len(documents), POOL_BATCHES * size):
            pool = documents[start : start + POOL_BATCHES * size]
            yield pool[np.argsort(self.lengths[pool], kind="stable")]

    def _cut(self, pool: Int64[np.ndarray, " pool"]) -> Iterator[Int64[np.ndarray, " batch"]]:
        totals, start = np.cumsum(self.lengths[pool]), 0
        while start < len(pool):
            if self.batch_tokens is None:
                end = start + (self.batch_size or 0)
            else:
                before = totals[start - 1] if start else 0
                end = int(np.searchsorted(totals, before + self.batch_tokens, side="right"))
            yield pool[start:end]
            start = end


def resample(
    probabilities: Float32[np.ndarray, " documents"], key: np.uint64
) -> Int64[np.ndarray, " documents"]:
    """Draw as many indices as there are, each as often as its share says, up or down to an integer.

    Equal steps through the cumulated shares from one random start: less noise than drawing each
    index by itself, and the same expectation.
    """
    count = len(probabilities)
    ends = np.cumsum(probabilities, dtype=np.float64)
    start = float(key >> np.uint64(11)) / 2**53
    points = (start + np.arange(count)) * (ends[-1] / count)
    return np.minimum(np.searchsorted(ends, points, side="right"), count - 1)


def random_keys(seed: int, epoch: int, count: int) -> UInt64[np.ndarray, " count"]:
    """Draw sort keys; of all its streams, NumPy promises to keep only the raw one (NEP 19)."""
    return np.random.PCG64([seed, epoch]).random_raw(count)


def arrange(
    store: TokenStore,
    documents: Int64[np.ndarray, " documents"],
    *,
    arrangement: Arrangement,
    width: int,
    num_micro_batches: int = 1,
    num_lanes: int = 1,
    weights: Float32[np.ndarray, " store"] | None = None,
) -> list[Batch]:
    """Lay out the documents of a step in micro-batches.

    Args:
        store: where the documents are.
        documents: which ones.
        arrangement: bucketed: one document a row, like lengths together, each micro-batch as wide
            as its longest, rounded up so that few widths occur; packed: several documents a row,
            all rows of one width.
        width: at least the tokens of the longest document, the same for a whole run; packed rows
            are this wide, rounded up.
        num_micro_batches: at most so many; fewer where there are fewer rows.
        num_lanes: parts of a micro-batch; a batch each, one after the other. A micro-batch with
            fewer rows is not parted.
        weights: one per document of the store; 1 without.
    """
    rows = make_rows(store.lengths, documents, arrangement, width)
    batches: list[Batch] = []
    for micro_batch in shared_out(rows, min(num_micro_batches, len(rows))):
        lanes = lanes_for(len(micro_batch), num_lanes)
        batches += [
            lay_out(store, part, arrangement, width, weights, lanes)
            for part in shared_out(micro_batch, lanes)
        ]
    return batches


def lanes_for(num_rows: int, num_lanes: int) -> int:
    """Say in how many parts a micro-batch is worked on: in one, where not each would have a row."""
    return num_lanes if num_rows >= num_lanes else 1


def shared_out(rows: Sequence[list[int]], count: int) -> list[Sequence[list[int]]]:
    """Cut rows into parts that follow each other; those that have a row more come first."""
    return [rows[start:end] for start, end in itertools.pairwise(share_ends(len(rows), count))]


def share_ends(num_rows: int, count: int) -> list[int]:
    """Say where each of so many shares of rows ends, from 0 on."""
    small, num_large = divmod(num_rows, count)
    return [index * small + min(index, num_large) for index in range(count + 1)]


def evaluation_batches(
    store: TokenStore,
    documents: Int64[np.ndarray, " documents"],
    *,
    arrangement: Arrangement,
    width: int,
    batch_tokens: int,
) -> Iterator[Batch]:
    """Give batches of at most `batch_tokens` places, padding counted; always in the same order.

    A row that is wider than that comes alone.
    """
    for start in range(0, len(documents), EVALUATION_POOL_DOCUMENTS):
        pool = documents[start : start + EVALUATION_POOL_DOCUMENTS]
        group: list[list[int]] = []
        for row in make_rows(store.lengths, pool, arrangement, width):
            row_places = row_width(store.lengths, [row], arrangement, width)  # rows are ascending
            if group and row_places * (len(group) + 1) > batch_tokens:
                yield lay_out(store, group, arrangement, width)
                group = []
            group.append(row)
        yield lay_out(store, group, arrangement, width)


def make_rows(
    lengths: Int64[np.ndarray, " store"],
    documents: Int64[np.ndarray, " documents"],
    arrangement: Arrangement,
    width: int,
) -> list[list[int]]:
    """Say which documents stand in which row."""
    ascending = documents[np.argsort(lengths[documents], kind="stable")].tolist()
    if arrangement == "bucketed":
        return [[document] for document in ascending]
    return pack(lengths, ascending[::-1], row_width(lengths, [], arrangement, width))


def pack(
    lengths: Int64[np.ndarray, " store"], descending: Sequence[int], width: int
) -> list[list[int]]:
    """Put each document into the first row that has room (first-fit decreasing)."""
    rows: list[list[int]] = []
    room = np.full(len(descending), width, dtype=np.int64)
    for document in descending:
        places = lengths[document] - 1
        index = int(np.argmax(room >= places))
        assert room[index] >= places, "a document is longer than a row"
        if index == len(rows):
            rows.append([])
        rows[index].append(document)
        room[index] -= places
    return rows


def row_width(
    lengths: Int64[np.ndarray, " store"],
    rows: Sequence[Sequence[int]],
    arrangement: Arrangement,
    width: int,
) -> int:
    """Say how wide these rows become: rounded up, so that few widths occur in a run."""
    if arrangement == "packed":
        return round_up(width, PACKED_TOKENS)
    longest = int(max(lengths[row].sum() - len(row) for row in rows))
    assert longest <= width, "a document is longer than a row"
    return round_up(longest, round_up(-(-width // MAX_WIDTHS), BUCKET_TOKENS))


def round_up(number: int, multiple: int) -> int:
    """Give the next multiple that is not below a number."""
    return -(-number // multiple) * multiple


def lay_out(
    store: TokenStore,
    rows: Sequence[Sequence[int]],
    arrangement: Arrangement,
    width: int,
    weights: Float32[np.ndarray, " store"] | None = None,
    num_lanes: int = 1,
) -> Batch:
    """Copy documents from the store into the rows of one batch."""
    shape = (len(rows), row_width(store.lengths, rows, arrangement, width))
    inputs, targets, segment_ids = (np.zeros(shape, np.int32) for _ in range(3))
    loss_mask, place_weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    documents: list[int] = []
    for row_index, row in enumerate(rows):
        end = 0
        for document in row:
            documents.append(document)
            tokens = store.tokens(document)
            start, end = end, end + len(tokens) - 1
            place = np.s_[row_index, start:end]
            inputs[place], targets[place] = tokens[:-1], tokens[1:]
            loss_mask[place] = store.target_mask(document)[1:]
            segment_ids[place] = len(documents)
            place_weights[place] = store.weights(document)[1:]
            if weights is not None:
                place_weights[place] *= weights[document]
    indices = np.array(documents, np.int64)
    return Batch(inputs, targets, loss_mask, segment_ids, place_weights, indices, num_lanes)
