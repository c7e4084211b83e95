"""The documents of a held-out split that are measured: the first ones, up to a bound."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from pipeline.data.store import TokenStore


@dataclass(frozen=True)
class FirstDocuments:
    """The first documents of a split, which are measured.

    Attributes:
        count: how many these are.
        total: documents of the split.
        keys: the parameters that bound them.
    """

    count: int
    total: int
    keys: tuple[str, ...]

    @property
    def indices(self) -> Int64[np.ndarray, " documents"]:
        """List the documents."""
        return np.arange(self.count)

    @property
    def share(self) -> float:
        """The share of the documents of the split."""
        return self.count / self.total

    @property
    def note(self) -> str:
        """Word how many are measured; empty where all are."""
        if self.count == self.total:
            return ""
        return (
            f"{self.count:,} of {self.total:,} held-out documents are measured, {self.share:.0%} "
            f"({', '.join(self.keys)})"
        )


def first_documents(
    store: TokenStore, most_documents: int | None, most_tokens: int | None, *keys: str
) -> FirstDocuments:
    """Choose the first documents that together have no more tokens than allowed.

    Two are chosen in any case, where there are two: one alone tells nothing of its error.

    Args:
        store: the split.
        most_documents: None: any number.
        most_tokens: None: any number.
        keys: the parameters that these come from.
    """
    count = len(store) if most_documents is None else min(most_documents, len(store))
    if most_tokens is not None:
        ends = np.cumsum(store.lengths[:count])
        count = min(count, max(2, int(np.searchsorted(ends, most_tokens, side="right"))))
    return FirstDocuments(count, len(store), keys)
