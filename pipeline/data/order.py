"""Which documents make up a step: a pure function of seed and step.

So a resumed run asks for the step that it needs, and no state is kept. How the documents lie in the
rows of a step is in `batches`.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int64, UInt64

from pipeline.errors import ConfigError

POOL_BATCHES = 16


class BatchOrder:
    """Chooses the documents of each step.

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
        assert len(lengths), "an order needs documents"
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
        """Return the documents of a step; the first step is 1."""
        epoch, index = self.locate(step)
        return self._batches_of(epoch)[index]

    def locate(self, step: int) -> tuple[int, int]:
        """Return the epoch of a step and its place in it, both from 0."""
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
