"""Counts duplicates and leaks among any number of documents in constant memory."""

from pathlib import Path
from types import TracebackType

import numpy as np

from pipeline.data.rows.records import HASH_BYTES
from pipeline.data.splits import SPLITS, Split

NUM_PARTITIONS = 64
ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("split", "u1")])


class DuplicateCounter:
    """Writes the hash of every document to one of 64 files, and counts file by file.

    Equal hashes lie in the same file, so that only one of them has to fit in memory. A context
    manager; the files are gone at its end.

    Args:
        folder: for the files; must not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._files = [(folder / f"{part}.bin").open("w+b") for part in range(NUM_PARTITIONS)]

    def add(self, content_hash: bytes, split: Split) -> None:
        """Note a document."""
        assert len(content_hash) == HASH_BYTES, "the hash of a record"
        entry = content_hash + bytes([SPLITS.index(split)])
        self._files[content_hash[0] % NUM_PARTITIONS].write(entry)

    def count(self) -> tuple[int, int]:
        """Count documents whose content came before, and held-out ones whose content is in train.

        Returns:
            All documents less the different ones; and the leaked documents.
        """
        totals = np.zeros(2, dtype=np.int64)
        for file in self._files:
            file.flush()
            file.seek(0)
            totals += count_partition(np.frombuffer(file.read(), dtype=ENTRY))
        return int(totals[0]), int(totals[1])

    def __enter__(self) -> "DuplicateCounter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()
            Path(file.name).unlink()
        self.folder.rmdir()


def count_partition(entries: np.ndarray) -> tuple[int, int]:
    """Count duplicates and leaks among entries that hold all copies of what they hold."""
    if not len(entries):
        return 0, 0
    entries = entries[np.lexsort((entries["low"], entries["high"]))]
    starts = np.ones(len(entries), dtype=bool)
    starts[1:] = (np.diff(entries["high"]) != 0) | (np.diff(entries["low"]) != 0)
    group = np.cumsum(starts) - 1
    in_train = entries["split"] == SPLITS.index("train")
    trained = np.bincount(group, weights=in_train) > 0
    leaked = ~in_train & trained[group]
    return len(entries) - int(starts.sum()), int(leaked.sum())
