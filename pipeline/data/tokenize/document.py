"""A tokenized document: its ids, which of them are learnt, and how much each counts."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32


class Encoded(NamedTuple):
    """A tokenized document.

    Attributes:
        ids: token ids.
        target_mask: True where a token is learnt.
        weights: how much each target counts, and 1 on other tokens; None where each counts 1.
    """

    ids: Int32[np.ndarray, " length"]
    target_mask: Bool[np.ndarray, " length"]
    weights: Float32[np.ndarray, " length"] | None = None


def array_of(ids: Sequence[int]) -> Int32[np.ndarray, " length"]:
    """Copy ids into an array; with a known length this is the fastest way."""
    return np.fromiter(ids, np.int32, len(ids))


def all_but_first(length: int) -> Bool[np.ndarray, " length"]:
    """Return the mask of a text of this length; shorter texts use its beginning."""
    mask = np.arange(length) > 0
    mask.flags.writeable = False
    return mask


def weighted(ids: Sequence[int], runs: Sequence[tuple[int, float]]) -> Encoded:
    """Return a document in which tokens of weight 0 and the first token are no targets.

    Args:
        ids: token ids.
        runs: how many tokens in a row have which weight, from the first to the last.
    """
    lengths, each = zip(*runs, strict=True)
    weights = np.repeat(np.array(each, np.float32), lengths)
    mask = weights > 0
    mask[:1] = False
    plain = bool((weights[mask] == 1).all())
    return Encoded(array_of(ids), mask, None if plain else np.where(mask, weights, np.float32(1)))


def repeated_tokens(documents: Sequence[Encoded]) -> int:
    """Count the tokens at the beginning of documents that are those of the document before."""
    total = 0
    for before, document in pairwise(documents):
        shorter = min(len(before.ids), len(document.ids))
        differ = np.flatnonzero(before.ids[:shorter] != document.ids[:shorter])
        total += int(differ[0]) if len(differ) else shorter
    return total
