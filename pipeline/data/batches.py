"""How the documents of a step lie in its rows.

Bucketed by length or packed, whichever is faster on the device; a document's own tokens, and so its
loss, are the same in both. Which documents make up a step is in `order`.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int32, Int64

from pipeline.data.store import TokenStore

Arrangement = Literal["bucketed", "packed"]
BUCKET_TOKENS = 16
MAX_WIDTHS = 64
PACKED_TOKENS = 128
EVALUATION_POOL_DOCUMENTS = 4096
PROOF_DOCUMENTS, PROOF_TOKENS = 8, 128
"""Rows of held-out text on which exports are compared, and the most tokens of one."""


@dataclass(frozen=True)
class Batch:
    """Rows of documents; padding is 0 everywhere.

    Attributes:
        inputs: token ids; a document of n tokens takes n - 1 positions.
        targets: the token after each input.
        loss_mask: 1 where the target counts; 0 on prompts and padding.
        segment_ids: k where the position belongs to the k-th of `documents`, from 1.
        weights: the weight of the document times that of the target within it.
        documents: which documents of the store these are.
    """

    inputs: Int32[np.ndarray, "rows seq_len"]
    targets: Int32[np.ndarray, "rows seq_len"]
    loss_mask: Float32[np.ndarray, "rows seq_len"]
    segment_ids: Int32[np.ndarray, "rows seq_len"]
    weights: Float32[np.ndarray, "rows seq_len"]
    documents: Int64[np.ndarray, " documents"]

    @property
    def num_targets(self) -> int:
        """Count the targets."""
        return int(np.count_nonzero(self.loss_mask))

    @property
    def num_tokens(self) -> int:
        """Count the tokens that the model reads, padding left out."""
        return int(np.count_nonzero(self.segment_ids))

    @property
    def weight_sum(self) -> float:
        """Add up the weights of the targets."""
        return float((self.weights * self.loss_mask).sum(dtype=np.float64))

    @property
    def occupancy(self) -> float:
        """Return the share of positions that hold a document and not padding."""
        return self.num_tokens / self.segment_ids.size

    @property
    def is_packed(self) -> bool:
        """Whether a row holds several documents, so that attention needs `segment_ids`."""
        return len(self.documents) > len(self.inputs)


MicroBatch = tuple[Batch, ...]
"""Batches that a CPU works on side by side, each on a separate stream; mostly a single one."""


def resolve_arrangement(asked: str, fused_attention: bool) -> Arrangement:
    """Turn `auto` into what runs fastest: packs where attention is one kernel, else buckets.

    Without such a kernel a packed row pays for the scores of its whole width squared.
    """
    if asked == "auto":
        return "packed" if fused_attention else "bucketed"
    assert asked in ("bucketed", "packed"), asked
    return asked


@dataclass(frozen=True)
class RowLayout:
    """How documents lie in the rows of a run.

    Attributes:
        arrangement: bucketed: one document a row, like lengths together, each batch as wide as its
            longest document, rounded up so that few widths occur; packed: several documents a row,
            all rows of one width.
        width: at least the tokens of the longest document, the same for a whole run; packed rows
            are this wide, rounded up.
    """

    arrangement: Arrangement
    width: int

    def rows(
        self, lengths: Int64[np.ndarray, " store"], documents: Int64[np.ndarray, " documents"]
    ) -> list[list[int]]:
        """Choose the documents of each row."""
        ascending = documents[np.argsort(lengths[documents], kind="stable")].tolist()
        if self.arrangement == "bucketed":
            return [[document] for document in ascending]
        return pack(lengths, ascending[::-1], self.row_width(lengths, []))

    def row_width(self, lengths: Int64[np.ndarray, " store"], rows: Sequence[Sequence[int]]) -> int:
        """Choose the width of some rows: rounded up, so that few widths occur in a run."""
        if self.arrangement == "packed":
            return round_up(self.width, PACKED_TOKENS)
        longest = int(max(lengths[row].sum() - len(row) for row in rows))
        assert longest <= self.width, "a document is longer than a row"
        return round_up(longest, round_up(-(-self.width // MAX_WIDTHS), BUCKET_TOKENS))


def arrange(
    store: TokenStore,
    documents: Int64[np.ndarray, " documents"],
    layout: RowLayout,
    num_micro_batches: int = 1,
    num_streams: int = 1,
    weights: Float32[np.ndarray, " store"] | None = None,
) -> list[MicroBatch]:
    """Lay out the documents of a step in micro-batches.

    Args:
        store: where the documents are.
        documents: which ones.
        layout: of the run.
        num_micro_batches: at most so many; fewer where there are fewer rows.
        num_streams: batches of a micro-batch; one where it has fewer rows than that.
        weights: one per document of the store; 1 without.
    """
    rows = layout.rows(store.lengths, documents)
    return [
        tuple(
            lay_out(store, share, layout, weights)
            for share in shared_out(micro_batch, streams_for(len(micro_batch), num_streams))
        )
        for micro_batch in shared_out(rows, min(num_micro_batches, len(rows)))
    ]


def streams_for(num_rows: int, num_streams: int) -> int:
    """Count the streams of a micro-batch: one, where not each of them would have a row."""
    return num_streams if num_rows >= num_streams else 1


def shared_out(rows: Sequence[list[int]], count: int) -> list[Sequence[list[int]]]:
    """Cut rows into parts that follow each other; those that have a row more come first."""
    return [rows[start:end] for start, end in itertools.pairwise(share_ends(len(rows), count))]


def share_ends(num_rows: int, count: int) -> list[int]:
    """Return where each of so many shares of rows ends, from 0 on."""
    small, num_large = divmod(num_rows, count)
    return [index * small + min(index, num_large) for index in range(count + 1)]


def evaluation_batches(
    store: TokenStore,
    documents: Int64[np.ndarray, " documents"],
    layout: RowLayout,
    batch_tokens: int,
) -> Iterator[Batch]:
    """Yield batches of at most `batch_tokens` tokens, padding counted, in a fixed order.

    A row that is wider than that comes alone.
    """
    for start in range(0, len(documents), EVALUATION_POOL_DOCUMENTS):
        pool = documents[start : start + EVALUATION_POOL_DOCUMENTS]
        group: list[list[int]] = []
        for row in layout.rows(store.lengths, pool):
            width = layout.row_width(store.lengths, [row])  # rows are ascending
            if group and width * (len(group) + 1) > batch_tokens:
                yield lay_out(store, group, layout)
                group = []
            group.append(row)
        yield lay_out(store, group, layout)


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


def round_up(number: int, multiple: int) -> int:
    """Return the next multiple that is not below a number."""
    return -(-number // multiple) * multiple


def lay_out(
    store: TokenStore,
    rows: Sequence[Sequence[int]],
    layout: RowLayout,
    weights: Float32[np.ndarray, " store"] | None = None,
) -> Batch:
    """Copy documents from the store into the rows of one batch."""
    shape = (len(rows), layout.row_width(store.lengths, rows))
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
    return Batch(inputs, targets, loss_mask, segment_ids, place_weights, indices)
