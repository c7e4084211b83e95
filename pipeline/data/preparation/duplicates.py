"""Counts duplicates, and held-out documents that are also trained on, in constant memory."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import numpy as np

from pipeline.data.splits import SPLITS

NUM_PARTITIONS = 64
ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("split", "u1")])
"""A document: its hash, and the number of its split."""
ENTRIES_READ = 1 << 16


def count_duplicates(hashes: Path, folder: Path) -> tuple[int, int]:
    """Count documents whose content came before, and held-out ones whose content is in train.

    Entries are divided among 64 files by their hash, and the files are counted one by one. Equal
    hashes are in the same file, so only one file has to fit in memory.

    Args:
        hashes: a file of `ENTRY`, one for each document.
        folder: where the 64 temporary files are.

    Returns:
        The number of duplicates (all documents less the different ones), and of leaks.
    """
    totals = np.zeros(2, dtype=np.int64)
    with ExitStack() as stack:
        files = [
            stack.enter_context(TemporaryFile(prefix=".partition", dir=folder))
            for _ in range(NUM_PARTITIONS)
        ]
        deal(hashes, files)
        for file in files:
            file.seek(0)
            totals += count_partition(np.frombuffer(file.read(), dtype=ENTRY))
    return int(totals[0]), int(totals[1])


def deal(path: Path, files: Sequence[BinaryIO]) -> None:
    """Append each entry of a file to the partition of its hash."""
    with path.open("rb") as source:
        while content := source.read(ENTRIES_READ * ENTRY.itemsize):
            entries = np.frombuffer(content, dtype=ENTRY)
            partition = entries["high"] % NUM_PARTITIONS
            order = np.argsort(partition, kind="stable")
            ends = np.cumsum(np.bincount(partition.astype(np.int64), minlength=NUM_PARTITIONS))
            for file, group in zip(files, np.split(entries[order], ends[:-1]), strict=True):
                file.write(group.tobytes())


def count_partition(entries: np.ndarray) -> tuple[int, int]:
    """Count duplicates and leaks among entries of which every copy is here."""
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
