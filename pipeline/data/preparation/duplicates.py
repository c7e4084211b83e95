"""Counts duplicates and leaks among any number of documents in constant memory."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.data.splits import SPLITS

NUM_PARTITIONS = 64
ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("split", "u1")])
"""A document: its hash, and the number of its split."""
ENTRIES_READ = 1 << 16


def count_duplicates(hashes: Sequence[Path], folder: Path) -> tuple[int, int]:
    """Count documents whose content came before, and held-out ones whose content is in train.

    The entries are dealt to 64 files by their hash, and counted file by file: equal hashes lie in
    the same file, so that only one of them has to fit in memory.

    Args:
        hashes: files of `ENTRY`, one for each document.
        folder: for the 64 files; must not exist yet, and is gone at the end.

    Returns:
        All documents less the different ones; and the leaked documents.
    """
    folder.mkdir()
    try:
        with ExitStack() as stack:
            files = [
                stack.enter_context((folder / f"{index}.bin").open("w+b"))
                for index in range(NUM_PARTITIONS)
            ]
            for path in hashes:
                deal(path, files)
            totals = np.zeros(2, dtype=np.int64)
            for file in files:
                file.seek(0)
                totals += count_partition(np.frombuffer(file.read(), dtype=ENTRY))
    finally:
        shutil.rmtree(folder)
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
