"""From rows to documents: tokenize, cut to the length of the model, and describe the result."""

import csv
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Answer, Conversation, Text
from pipeline.data.sources.source import BadRow, BadRows, Row
from pipeline.data.store import TokenStore
from pipeline.data.tokenize.document import Encoded, repeated_tokens
from pipeline.data.tokenize.encode import Draft, Encoder, Result, Tokenized
from pipeline.errors import MAX_LISTED_PROBLEMS, DataError, ModelError, report_problems

HISTOGRAM_BINS = 64
BATCH_ROWS = 1024
BATCH_BYTES = 1 << 18
AHEAD = 3
"""Batches that are read before the first of them is stored."""
COUNTS = (
    "truncated_documents",
    "truncated_tokens",
    "split_documents",
    "repeated_tokens",
    "pieces_without_targets",
    "rows_without_targets",
    "unanswered_messages",
    "separate_conversations",
    "control_tokens_in_text",
)
Rows = list[Row | BadRow]


class TokenizedDocuments:
    """Tokenizes rows, cuts them to the length of the model, and counts what was cut.

    Args:
        encoder: tokenizes rows.
        vocab_size: every id that the model knows is below it.
        max_seq_len: length of the longest document, in tokens.
        long_documents: what to do with a longer one: truncate, split or refuse.
        overlap_tokens: how many tokens of the piece before a piece repeats.

    Attributes:
        counts: how much was cut or left out, by the names of `COUNTS`.
        too_long: files and lines of documents that `refuse_long` refuses.
    """

    def __init__(
        self,
        encoder: Encoder,
        vocab_size: int,
        max_seq_len: int,
        long_documents: str,
        overlap_tokens: int,
    ) -> None:
        self.encoder = encoder
        self.vocab_size, self.max_seq_len = vocab_size, max_seq_len
        self.has_other_ids = encoder.num_ids > vocab_size
        self.long_documents, self.overlap_tokens = long_documents, overlap_tokens
        self.counts, self.too_long = Counter[str](), list[str]()

    def of(
        self, rows: Iterator[Row | BadRow], bad: BadRows, progress: Callable[[int], None]
    ) -> Iterator[tuple[Row, list[Encoded]]]:
        """Yield each row that has something to learn, with its documents.

        Reading stops early when so many documents are too long that an error lists no more.

        Args:
            rows: rows that were read.
            bad: collects those that cannot be used, in their order.
            progress: called with the number of rows done so far.

        Raises:
            DataError: when too many rows are bad.
            ModelError: when the model does not know one of the ids.
        """
        done = 0
        for batch, results in self.tokenized(batches_of(rows)):
            for row, result in zip(batch, results, strict=True):
                if isinstance(result, RowError):
                    bad.add(row.file, row.line, row.raw, str(result))
                elif isinstance(row, Row) and (pieces := self.fit(row, result)):
                    self.note_content(row.record.content)
                    yield row, pieces
                if len(self.too_long) == MAX_LISTED_PROBLEMS:
                    return
            done += len(batch)
            progress(done)
        bad.finish()

    def tokenized(self, batches: Iterator[Rows]) -> Iterator[tuple[Rows, list[Result]]]:
        """Yield batches of rows, and for each row its documents or what is wrong with it.

        A process applies the chat template to one batch, and the library tokenizes another on its
        own thread, while this thread reads the next batch and stores the one before. All run at
        once, because the library releases Python's lock.
        """
        encoder, waiting = (
            self.encoder,
            deque[tuple[Rows, Future[list[Draft]], Future[Tokenized]]](),
        )
        tokenize = lambda drafts: encoder.tokenize(drafts.result())  # noqa: E731
        with ThreadPoolExecutor(1) as templates, ThreadPoolExecutor(1) as library:
            for batch in chain(batches, [Rows()] * AHEAD):  # more, for the last ones to come out
                records = [row.record if isinstance(row, Row) else row.error for row in batch]
                drafts = templates.submit(encoder.drafts_of, records)
                waiting.append((batch, drafts, library.submit(tokenize, drafts)))
                if len(waiting) > AHEAD:
                    rows, drafts, tokenized = waiting.popleft()
                    yield rows, encoder.join(drafts.result(), tokenized.result())

    def fit(self, row: Row, documents: Sequence[Encoded]) -> list[Encoded]:
        """Return what to store of a row: its documents or pieces of them, none without targets.

        Raises:
            ModelError: when the model does not know one of the ids.
        """
        pieces, overlap = list[Encoded](), 0
        for document in documents:
            self.check_ids(row, document)
            whole = len(document.ids) <= self.max_seq_len
            own = [document] if whole else [*self.cut(row, document)]
            overlap += self.overlap_tokens * sum(p.target_mask.any() for p in own[1:])
            pieces += own
        kept = [piece for piece in pieces if np.count_nonzero(piece.target_mask)]
        if not kept:
            self.counts["rows_without_targets"] += 1
            return kept
        self.counts["pieces_without_targets"] += len(pieces) - len(kept)
        self.counts["repeated_tokens"] += int(overlap)
        if len(documents) > 1:
            self.counts["separate_conversations"] += 1
            self.counts["repeated_tokens"] += repeated_tokens(documents)
        return kept

    def check_ids(self, row: Row, document: Encoded) -> None:
        """Refuse ids that the model does not know.

        Raises:
            ModelError: with the largest.
        """
        if self.has_other_ids and document.ids.max() >= self.vocab_size:
            raise ModelError(
                f"{row.file}, line {row.line}: the tokenizer gives id {document.ids.max()}, and "
                f"the model's vocab_size is {self.vocab_size}.\n"
                "The tokenizer belongs to another model."
            )

    def cut(self, row: Row, document: Encoded) -> Iterator[Encoded]:
        """Cut a document that is too long, and count it."""
        self.note_long(row, len(document.ids))
        keep_all = self.long_documents == "split"
        return cut(document, self.max_seq_len, keep_all, self.overlap_tokens)

    def note_content(self, content: Text | Answer | Conversation) -> None:
        """Count what a stored row has that is left out, or that is no ordinary text."""
        self.counts["control_tokens_in_text"] += self.encoder.control.count_in(content)
        if isinstance(content, Conversation):
            self.counts["unanswered_messages"] += content.left_out

    def note_long(self, row: Row, length: int) -> None:
        """Count a document that is too long, or note it where that is refused."""
        if self.long_documents == "refuse":
            self.too_long.append(f"{row.file}, line {row.line}: {length} tokens")
        elif self.long_documents == "split":
            self.counts["split_documents"] += 1
        else:
            self.counts["truncated_documents"] += 1
            self.counts["truncated_tokens"] += length - self.max_seq_len


def refuse_long(documents: Sequence[str], max_seq_len: int) -> None:
    """Refuse documents that are too long; do nothing where there is none.

    Args:
        documents: file, line and length of each.
        max_seq_len: length of the longest document that is allowed, in tokens.

    Raises:
        DataError: with the first of them.
    """
    report_problems(
        DataError,
        f"Documents longer than data.max_seq_len={max_seq_len}, the first of them:",
        documents[:MAX_LISTED_PROBLEMS],
        "Shorten them, or set data.long_documents to truncate or split.",
    )


def batches_of(rows: Iterator[Row | BadRow]) -> Iterator[Rows]:
    """Yield rows in batches to tokenize, limited by their number and by their bytes."""
    batch, size = Rows(), 0
    for row in rows:
        batch.append(row)
        size += len(row.raw)
        if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = Rows(), 0
    if batch:
        yield batch


def cut(
    encoded: Encoded, max_seq_len: int, keep_all: bool, overlap_tokens: int
) -> Iterator[Encoded]:
    """Cut a document into pieces of at most `max_seq_len` tokens.

    A piece begins with the last token of the piece before, from which its first target is
    predicted, and with `overlap_tokens` more before it as context. With `keep_all` every target is
    in one piece and in no other.

    Args:
        encoded: one document.
        max_seq_len: longest piece, in tokens.
        keep_all: yield all pieces; only the first one where this is false.
        overlap_tokens: tokens that are read again and not learnt again; below max_seq_len - 1.
    """
    ids, mask, weights = encoded
    stride = max_seq_len - 1 - overlap_tokens
    starts = range(0, max(1, len(ids) - 1 - overlap_tokens) if keep_all else 1, stride)
    for start in starts:
        piece = slice(start, start + max_seq_len)
        piece_mask = mask[piece].copy()
        piece_mask[: overlap_tokens + 1 if start else 1] = False
        yield Encoded(ids[piece], piece_mask, weights_of(piece_mask, weights, piece))


def weights_of(
    piece_mask: Bool[np.ndarray, " piece"],
    weights: Float32[np.ndarray, " length"] | None,
    piece: slice,
) -> Float32[np.ndarray, " piece"] | None:
    """Return the weights of a piece; None where each of its targets counts 1."""
    if weights is None or (weights[piece][piece_mask] == 1).all():
        return None
    return np.where(piece_mask, weights[piece], np.float32(1))


def split_facts(store: TokenStore) -> dict[str, Any]:
    """Return the metrics of a split: lengths in tokens, shares from 0 to 1."""
    documents, tokens = len(store), store.total_tokens
    longest = int(store.lengths.max(initial=0))
    carried = [~np.isnan(values) for values in (store.authority_weight, store.provenance_entropy)]
    return {
        "documents": documents,
        "tokens": tokens,
        "targets": store.total_targets,
        "mean_length": tokens / max(documents, 1),
        "longest": longest,
        "occupancy_if_padded": tokens / max(documents * longest, 1),
        "provenance_share": int((carried[0] & carried[1]).sum()) / max(documents, 1),
        "half_provenance_documents": int((carried[0] ^ carried[1]).sum()),
    }


def length_histogram(store: TokenStore, max_seq_len: int) -> list[tuple[int, int, int]]:
    """Return rows of a histogram of lengths in tokens: from, to (inclusive), documents."""
    width = -(-max_seq_len // HISTOGRAM_BINS)
    starts = range(1, max_seq_len + 1, width)
    counts = np.bincount((store.lengths - 1) // width, minlength=len(starts))
    return [
        (start, start + width - 1, int(count)) for start, count in zip(starts, counts, strict=True)
    ]


def write_histogram(path: Path, histogram: list[tuple[int, int, int]]) -> None:
    """Write the histogram of lengths as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["tokens_from", "tokens_to", "documents"])
        writer.writerows(histogram)
