"""Activations on disk: the output of frozen blocks for each document, shared by epochs and runs.

A store is a folder named by the hash of all that decides its bits. `activations.bin` is a sparse
file with a fixed position for each document, so that only written documents take room.
`digests.bin` has a sha256 per document, zero while the document is missing. `activations.json`
lists what decides the bits. A document counts only where its bytes have its digest. So writes need
no order and no sync: what a killed process or a power failure leaves half-written does not count.
Every process writes the same bytes for a document, so several processes may use one store.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt

from pipeline.files import json_text, read_json, sha256_bytes, write_json

VALUES, DIGESTS, HEADER = "activations.bin", "digests.bin", "activations.json"
FILES = VALUES, DIGESTS
FORMAT = "tidewheel activations 1"
DIGEST_BYTES = 32
BLOCK_BYTES = 4096
"""A file takes room by so many bytes at a time."""
FREE_SHARE = 0.5
"""Share of the free room on the disk that may be taken; checkpoints need some too."""
OLD = ".old-"
log = logging.getLogger(__name__)


class ActivationStore:
    """The activations of the documents of one split, read through a memory map.

    Attributes:
        folder: where they are.
        num_damaged: documents whose bytes did not have their digest.
        close: ends the use of the store, so that other processes may evict it.
    """

    def __init__(
        self,
        folder: Path,
        cache: "ActivationCache",
        positions: Int64[np.ndarray, " documents"],
        width: int,
        dtype: np.dtype,
    ) -> None:
        """Open a store that `ActivationCache.open` has made, and keep it from being evicted."""
        self.folder, self.cache, self.num_damaged = folder, cache, 0
        self._ends = np.cumsum(positions)
        self._row_bytes = width * dtype.itemsize
        self._values, self._digests = (os.open(folder / name, os.O_RDWR) for name in FILES)
        self.close = weakref.finalize(self, close_all, self._values, self._digests)
        fcntl.flock(self._values, fcntl.LOCK_SH)
        shape = int(self._ends[-1]), width
        self._map = np.memmap(folder / VALUES, dtype, mode="r", shape=shape)
        self._table = np.memmap(
            folder / DIGESTS, np.uint8, mode="r", shape=(len(positions), DIGEST_BYTES)
        )
        self._verified = np.zeros(len(positions), bool)
        self._is_full = False

    @property
    def num_bytes(self) -> int:
        """Count the bytes of the documents that are stored."""
        stored = self._table.any(axis=1)
        return int(np.diff(self._ends, prepend=0)[stored].sum()) * self._row_bytes

    @property
    def missing_bytes(self) -> int:
        """Count the bytes of the documents that are not."""
        return int(self._ends[-1]) * self._row_bytes - self.num_bytes

    def rows_of(self, document: int) -> slice:
        """Return the rows of a document."""
        return slice(int(self._ends[document - 1]) if document else 0, int(self._ends[document]))

    def read(self, document: int) -> UInt[np.ndarray, "positions width"] | None:
        """Return the bits of a document's activations; None where they are not there, or damaged.

        The digest is checked when a process first reads them.
        """
        known = self._table[document].tobytes()
        if not any(known):
            return None
        values = self._map[self.rows_of(document)]
        if not self._verified[document]:
            self._verified[document] = digest(document, values) == known
        if self._verified[document]:
            return values
        self.num_damaged += 1
        if self.num_damaged == 1:
            log.warning(
                "%s: document %d is not what was written; such documents are computed again.",
                self.folder,
                document,
            )
        return None

    def write(self, document: int, values: UInt[np.ndarray, "positions width"]) -> None:
        """Store a document if there is room; warn once where there is none."""
        if self._is_full:
            return
        is_new = not self._table[document].any()
        try:
            if is_new and not self.cache.has_room(values.nbytes):
                self._is_full = True
                log.warning(self.fullness())
                return
            place = self.rows_of(document).start * self._row_bytes
            write_at(self._values, values.tobytes(), place)
            write_at(self._digests, digest(document, values), document * DIGEST_BYTES)
        except OSError as error:
            self._is_full = True
            log.warning(
                "%s: no more activations can be stored (%s).\nTraining goes on to the same result; "
                "what is not stored is computed again each time.",
                self.folder,
                error,
            )

    def fullness(self) -> str:
        """Describe how much the budget holds, and which one would hold all."""
        held, missing = self.num_bytes, self.missing_bytes
        wanted = self.cache.held_bytes() + missing + BLOCK_BYTES * len(self._table)
        wanted *= 1.05  # two digits are shown
        return (
            f"{self.folder}: there is room for {held / (held + missing):.0%} of the activations; "
            "those of all other documents are computed again each time they are used, one by one, "
            "which is slower than no cache.\n"
            f"train.prefix_cache_gb={wanted / 1e9:.2g} holds all where the disk has twice as much "
            "room; 0 keeps none."
        )


class ActivationCache:
    """All stores of a folder, under one budget.

    Args:
        folder: holds a folder per store.
        budget_bytes: what all of them may take on the disk; the least recently used ones that
            no process has open make room for a new one.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.folder, self.budget_bytes = folder, budget_bytes

    def open(
        self,
        facts: dict[str, Any],
        positions: Int64[np.ndarray, " documents"],
        width: int,
        itemsize: int,
    ) -> ActivationStore:
        """Open the store of these facts, or make it.

        Args:
            facts: all that decides the bits, for JSON.
            positions: activations of each document.
            width: numbers of an activation.
            itemsize: bytes of such a number.

        Raises:
            OSError: when the folder cannot be used.
        """
        header = {"format": FORMAT, **facts, "width": width, "itemsize": itemsize}
        path = self.folder / sha256_bytes(json_text(header).encode())[:32]
        sizes = {
            VALUES: int(positions.sum()) * width * itemsize,
            DIGESTS: len(positions) * DIGEST_BYTES,
        }
        with self.alone():
            if not is_whole(path, header, sizes):
                if (path / HEADER).exists():  # else it was never finished
                    log.warning("%s is damaged, and made anew.", path)
                if path.exists():
                    self.evict(path)
                make(path, header, sizes)
            os.utime(path / HEADER)
            store = ActivationStore(path, self, positions, width, np.dtype(f"<u{itemsize}"))
            self.make_room(store.missing_bytes)
        return store

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from making and evicting stores until the end of the `with`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for path in self.folder.glob(f"{OLD}*"):
                shutil.rmtree(path, ignore_errors=True)
            yield

    def has_room(self, num_bytes: int) -> bool:
        """Whether so many bytes may be added."""
        needed = (num_bytes // BLOCK_BYTES + 2) * BLOCK_BYTES  # it may begin and end in a new block
        return self.held_bytes() + needed <= self.allowed_bytes()

    def held_bytes(self) -> int:
        """Measure what all stores take on the disk."""
        return sum(disk_bytes(path) for path in self.folder.glob("*/*.bin"))

    def allowed_bytes(self) -> int:
        """Return the budget, or less where the disk is nearly full."""
        free = shutil.disk_usage(self.folder).free
        return min(self.budget_bytes, int(FREE_SHARE * (self.held_bytes() + free)))

    def make_room(self, num_bytes: int) -> None:
        """Evict stores that no process has open, the least recently used first, for more room."""
        stores = sorted(self.folder.glob(f"*/{HEADER}"), key=lambda path: path.stat().st_mtime_ns)
        for header in stores:
            if self.has_room(num_bytes):
                return
            if not is_in_use(header.parent):
                self.evict(header.parent)

    def evict(self, path: Path) -> None:
        """Rename a store, so that a part of it is not taken for all of it, and delete it."""
        old = path.with_name(f"{OLD}{path.name}-{secrets.token_hex(4)}")
        path.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def digest(document: int, values: np.ndarray) -> bytes:
    """Hash the number of a document and its activations."""
    found = hashlib.sha256(document.to_bytes(8, "little"))
    found.update(np.ascontiguousarray(values).data)
    return found.digest()


def close_all(*descriptors: int) -> None:
    """Close files, and give back the locks on them."""
    for descriptor in descriptors:
        os.close(descriptor)


def write_at(descriptor: int, data: bytes, place: int) -> None:
    """Write all bytes; on a full disk this is an error, where a memory map would crash."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written


def disk_bytes(path: Path) -> int:
    """Measure what a file takes on the disk: 0 once it is gone."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def is_whole(path: Path, header: dict[str, Any], sizes: dict[str, int]) -> bool:
    """Whether a folder holds the store of a header, with files of the right sizes in bytes."""
    try:
        same = read_json(path / HEADER) == header
        return same and all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def make(path: Path, header: dict[str, Any], sizes: dict[str, int]) -> None:
    """Make an empty store; the header comes last."""
    path.mkdir()
    for name, size in sizes.items():
        with (path / name).open("wb") as file:
            file.truncate(size)
    write_json(path / HEADER, header)


def is_in_use(path: Path) -> bool:
    """Whether a process has a store open."""
    try:
        with (path / VALUES).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
