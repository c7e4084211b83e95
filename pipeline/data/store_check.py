"""Whether the files of a token store agree with each other; looked at when a store is opened."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MIN_TOKENS = 2
"""Of a document: one that is read, and one that is predicted."""


@dataclass(frozen=True)
class Contents:
    """What the files of a store hold, mapped.

    Attributes:
        documents: the document table.
        tokens: ids of all documents, one after the other.
        targets: one per token, 1 where it is a target.
        weights: one per token; None where all targets count alike.
        vocab_size: every id is below it.
        num_targets: of all documents, as the header says.
    """

    documents: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray | None
    vocab_size: int
    num_targets: int


def contradictions(store: Contents) -> list[str]:
    """Describe what in a store cannot be; each kind once, by the first document that has it."""
    problems = list(table_problems(store))
    if not problems and len(store.documents):  # else the table does not say where documents are
        problems = [*token_problems(store), *target_problems(store)]
    return problems


def table_problems(store: Contents) -> Iterator[str]:
    """Describe lengths that no document has, and documents that do not follow each other."""
    starts, lengths = store.documents["start"], store.documents["length"]
    short = np.flatnonzero((lengths < MIN_TOKENS) | (lengths > len(store.tokens)))
    if len(short):
        length = lengths[short[0]]
        yield f"document {short[0]} has {length} tokens, of {len(store.tokens)} in tokens.bin"
        return
    wanted = np.cumsum(lengths) - lengths
    moved = np.flatnonzero(starts != wanted)
    if len(moved):
        first = moved[0]
        yield f"document {first} starts at token {starts[first]}; must at {wanted[first]}"
    elif lengths.sum() != len(store.tokens):
        yield "documents.bin does not end where tokens.bin does"
    for name in ("authority_weight", "provenance_entropy"):
        values = store.documents[name]
        wrong = np.flatnonzero(~(np.isnan(values) | (np.isfinite(values) & (values >= 0))))
        if len(wrong):
            yield f"document {wrong[0]} has {name} {values[wrong[0]]}"


def token_problems(store: Contents) -> Iterator[str]:
    """Describe ids that the vocabulary lacks, and weights that no target has."""
    largest = int(store.tokens.max())
    if largest >= store.vocab_size:
        yield f"tokens.bin has id {largest}; the vocabulary has {store.vocab_size}"
    if store.weights is not None:
        least, most = store.weights.min(), store.weights.max()
        if not (least > 0 and most <= 1):
            yield f"weights.bin has weights from {least} to {most}; must be above 0 and at most 1"


def target_problems(store: Contents) -> Iterator[str]:
    """Describe targets that are miscounted, absent, or first in their document."""
    marks, starts = store.targets.view(np.uint8), store.documents["start"]
    if marks.max() > 1:
        yield f"targets.bin has a byte {marks.max()}; must be 0 or 1"
        return
    found = np.add.reduceat(marks, starts, dtype=np.int32)  # twice as fast as int64
    named = store.documents["num_targets"]
    for what, wrong in {
        "has no target": named < 1,
        "starts with a target": marks[starts] > 0,
        "does not have as many targets as documents.bin says": found != named,
    }.items():
        if wrong.any():
            yield f"document {np.flatnonzero(wrong)[0]} {what}"
    if found.sum() != store.num_targets:
        yield f"targets.bin has {found.sum()} targets; store.json says {store.num_targets}"
