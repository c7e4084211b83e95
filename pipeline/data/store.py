"""Tokens on disk: memory-mapped ids, target mask and document table, in constant memory.

A store is a folder: `tokens.bin` (unsigned 16 or 32 bits), `targets.bin` (one byte per token, 1
where it is a target), `documents.bin` (one record per document) and `store.json`, which is
written last: a store without it was never finished. Only where some target counts less than
others, there is `weights.bin` too (32-bit float per token). Identical input gives identical bytes.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Integer

from pipeline.data.store_check import Contents, contradictions
from pipeline.errors import DataError, report_problems
from pipeline.external.json_files import Remedy, read_own
from pipeline.external.shapes import TEXT, whole
from pipeline.files import write_json

FORMAT, WEIGHTED_FORMAT = "tidewheel token store 1", "tidewheel token store 1 with weights"
TOKENS, TARGETS, DOCUMENTS, HEADER = "tokens.bin", "targets.bin", "documents.bin", "store.json"
WEIGHTS, WEIGHT = "weights.bin", np.dtype("<f4")
DOCUMENT = np.dtype(
    [
        ("start", "<i8"),
        ("length", "<i8"),
        ("num_targets", "<i8"),
        ("authority_weight", "<f4"),
        ("provenance_entropy", "<f4"),
    ]
)
PROVENANCE = ("authority_weight", "provenance_entropy")
WRITE_BUFFER_BYTES = 1 << 20
BATCH_TOKENS = 1 << 16
READ_TOKENS = 1 << 22
COUNTS = {
    "vocab_size": whole(1, 1 << 32),
    **dict.fromkeys(("num_documents", "num_tokens", "num_targets"), whole(0, 1 << 48)),
}
"""What a header must have."""
REMEDY = "Run the prepare stage again: `dvc repro --force prepare`."
REMAKE = Remedy(DataError, REMEDY)


def token_type(vocab_size: int) -> np.dtype:
    """Choose the narrowest type that holds every id of a vocabulary."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class TokenStoreWriter:
    """Writes documents one by one; a context manager, and the store is whole when it ends well.

    Args:
        folder: where to write; made where it is missing.
        vocab_size: every id is below it; decides the type of the ids on disk.
    """

    def __init__(self, folder: Path, vocab_size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (HEADER, WEIGHTS):
            (folder / name).unlink(missing_ok=True)
        self.folder, self.vocab_size, self.dtype = folder, vocab_size, token_type(vocab_size)
        self.num_documents = self.num_tokens = self.num_targets = 0
        self._tokens, self._targets, self._documents = (
            (folder / name).open("wb", WRITE_BUFFER_BYTES) for name in (TOKENS, TARGETS, DOCUMENTS)
        )
        self._weights: BinaryIO | None = None
        self._waiting = list[tuple[Any, ...]]()
        self._waiting_tokens = 0

    def add(
        self,
        ids: Integer[np.ndarray, " length"],
        target_mask: Bool[np.ndarray, " length"],
        authority_weight: float | None,
        provenance_entropy: float | None,
        weights: Float32[np.ndarray, " length"] | None = None,
    ) -> None:
        """Append one document.

        Args:
            ids: token ids, at least two.
            target_mask: True where a token is to be predicted; never the first, at least one.
            authority_weight: None where the row carries none.
            provenance_entropy: bits; None where the row carries none.
            weights: how much each target counts, and 1 on other tokens; None: 1 everywhere.
        """
        self._waiting.append((ids, target_mask, weights, authority_weight, provenance_entropy))
        self._waiting_tokens += len(ids)
        if self._waiting_tokens >= BATCH_TOKENS:
            self._write()

    def _write(self) -> None:
        """Write the documents that wait: together, because each by itself costs more than it is."""
        if not self._waiting:
            return
        ids, masks, weights, *provenance = zip(*self._waiting, strict=True)
        tokens, targets = np.concatenate(ids), np.concatenate(masks)
        assert 0 <= tokens.min() <= tokens.max() < self.vocab_size, "an id outside the vocabulary"
        documents = np.empty(len(ids), DOCUMENT)
        documents["length"] = [len(each) for each in ids]
        starts = np.cumsum(documents["length"]) - documents["length"]
        documents["start"] = self.num_tokens + starts
        documents["num_targets"] = np.add.reduceat(targets, starts, dtype=np.int64)
        assert documents["num_targets"].all(), "a document without targets teaches nothing"
        assert not targets[starts].any(), "nothing predicts the first token"
        for name, values in zip(PROVENANCE, provenance, strict=True):
            documents[name] = np.array(values, np.float32)  # None becomes NaN
        self._tokens.write(tokens.astype(self.dtype).tobytes())
        self._targets.write(targets.tobytes())
        self._documents.write(documents.tobytes())
        self._write_weights(weights, documents["length"])
        self.num_documents += len(documents)
        self.num_tokens += len(tokens)
        self.num_targets += int(documents["num_targets"].sum())
        self._waiting, self._waiting_tokens = [], 0

    def append(self, store: "TokenStore") -> None:
        """Append all documents of a finished store of the same vocabulary."""
        assert store.vocab_size == self.vocab_size, "ids of another vocabulary"
        self._write()
        for first in range(0, len(store), BATCH_TOKENS):
            documents = np.array(store.documents[first : first + BATCH_TOKENS])
            documents["start"] += self.num_tokens
            self._documents.write(documents.tobytes())
        for name, file in ((TOKENS, self._tokens), (TARGETS, self._targets)):
            with (store.folder / name).open("rb") as source:
                shutil.copyfileobj(source, file, WRITE_BUFFER_BYTES)
        if store.is_weighted or self._weights is not None:
            for start in range(0, store.total_tokens, BATCH_TOKENS):
                weights = store.weights_between(start, start + BATCH_TOKENS)
                self._write_weights([weights], np.array([len(weights)]))
        self.num_documents += len(store)
        self.num_tokens += store.total_tokens
        self.num_targets += store.total_targets

    def _write_weights(
        self, weights: Sequence[np.ndarray | None], lengths: Int64[np.ndarray, " documents"]
    ) -> None:
        """Append weights; the first ones are preceded by a 1 for each token before."""
        if self._weights is None:
            if all(each is None for each in weights):
                return
            self._weights = (self.folder / WEIGHTS).open("wb", WRITE_BUFFER_BYTES)
            for start in range(0, self.num_tokens, WRITE_BUFFER_BYTES):
                count = min(WRITE_BUFFER_BYTES, self.num_tokens - start)
                self._weights.write(np.ones(count, WEIGHT).tobytes())
        pairs = zip(weights, lengths, strict=True)
        ones = [np.ones(length, WEIGHT) if each is None else each for each, length in pairs]
        values = np.concatenate(ones).astype(WEIGHT)
        assert ((values > 0) & (values <= 1)).all(), "a weight that no target has"
        self._weights.write(values.tobytes())

    def __enter__(self) -> "TokenStoreWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._write()
        finally:
            self._close()
        if kind is None:
            write_json(self.folder / HEADER, self.header())

    def _close(self) -> None:
        for file in filter(None, (self._tokens, self._targets, self._documents, self._weights)):
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def header(self) -> dict[str, str | int]:
        """Describe what the files hold, so that a reader can tell whether they are whole."""
        return {
            "format": FORMAT if self._weights is None else WEIGHTED_FORMAT,
            "vocab_size": self.vocab_size,
            "num_documents": self.num_documents,
            "num_tokens": self.num_tokens,
            "num_targets": self.num_targets,
        }


class TokenStore:
    """Reads a store through memory maps: nothing is loaded before it is asked for.

    Attributes:
        documents: the document table, as it lies on disk.
        is_weighted: whether some target counts less than 1.
        lengths: tokens per document.
        num_targets: targets per document.
        authority_weight: per document; NaN where the row carried none.
        provenance_entropy: bits per document; NaN where the row carried none.
        total_tokens: tokens of all documents.
        total_targets: targets of all documents.
        vocab_size: every id is below it.

    Raises:
        DataError: when the folder holds no store, or a damaged one.
    """

    lengths: Int64[np.ndarray, " documents"]
    num_targets: Int64[np.ndarray, " documents"]
    authority_weight: Float32[np.ndarray, " documents"]
    provenance_entropy: Float32[np.ndarray, " documents"]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        header = read_header(folder)
        self.vocab_size: int = header["vocab_size"]
        self.total_tokens: int = header["num_tokens"]
        self.total_targets: int = header["num_targets"]
        self.documents = table = self._map(DOCUMENTS, DOCUMENT, header["num_documents"])
        self._tokens = self._map(TOKENS, token_type(self.vocab_size), self.total_tokens)
        self._targets = self._map(TARGETS, np.dtype(np.bool_), self.total_tokens)
        self.is_weighted: bool = header["format"] == WEIGHTED_FORMAT
        self._weights = self._map(WEIGHTS, WEIGHT, self.total_tokens) if self.is_weighted else None
        self._starts, self.lengths = table["start"], table["length"]
        self.num_targets = table["num_targets"]
        self.authority_weight = table["authority_weight"]
        self.provenance_entropy = table["provenance_entropy"]
        contents = Contents(
            table, self._tokens, self._targets, self._weights, self.vocab_size, self.total_targets
        )
        headline = f"{folder}: its files contradict each other:"
        report_problems(DataError, headline, contradictions(contents), REMEDY)

    def _map(self, name: str, dtype: np.dtype, count: int) -> np.ndarray:
        path, expected = self.folder / name, count * dtype.itemsize
        size = path.stat().st_size if path.is_file() else -1
        if size != expected:
            state = "is missing" if size < 0 else f"has {size} bytes"
            raise DataError(f"{path} {state}; {HEADER} asks for {expected} bytes.\n{REMEDY}")
        if not count:  # nothing can be mapped
            return np.empty(0, dtype)
        return np.memmap(path, dtype, mode="r")

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, index: int) -> Int32[np.ndarray, " length"]:
        """Return the token ids of a document."""
        start = self._starts[index]
        return self._tokens[start : start + self.lengths[index]].astype(np.int32)

    def target_mask(self, index: int) -> Bool[np.ndarray, " length"]:
        """Mark the tokens of a document that are to be predicted; never the first."""
        start = self._starts[index]
        return self._targets[start : start + self.lengths[index]]

    def target_ids(self) -> Int64[np.ndarray, " ids"]:
        """List the tokens that are to be predicted somewhere, each once, in order."""
        found = np.zeros(self.vocab_size, bool)
        for start in range(0, self.total_tokens, READ_TOKENS):
            part = slice(start, start + READ_TOKENS)
            found[self._tokens[part][self._targets[part]]] = True
        return np.flatnonzero(found)

    def weights(self, index: int) -> Float32[np.ndarray, " length"]:
        """Return how much each target of a document counts; 1 on other tokens."""
        start = int(self._starts[index])
        return self.weights_between(start, start + int(self.lengths[index]))

    def weights_between(self, start: int, stop: int) -> Float32[np.ndarray, " length"]:
        """Return the weights of a range of tokens of the store."""
        if self._weights is None:
            return np.ones(min(stop, self.total_tokens) - start, np.float32)
        return self._weights[start:stop]


def held_out_store(prepared: Path) -> TokenStore:
    """Open the split for the final evaluation: test, or validation where there is no test row."""
    test = TokenStore(prepared / "test")
    return test if len(test) else TokenStore(prepared / "validation")


def read_header(folder: Path) -> dict[str, Any]:
    """Read what a store says about itself.

    Raises:
        DataError: when there is no store, or one of another format.
    """
    path = folder / HEADER
    if not path.exists():
        raise DataError(f"{folder} holds no finished token store (no {HEADER}).\n{REMEDY}")
    header = read_own(path, {"format": TEXT}, REMAKE)
    if header["format"] not in (FORMAT, WEIGHTED_FORMAT):
        raise DataError(
            f"{path}: format {header['format']!r}; this version reads {FORMAT!r}.\n{REMEDY}"
        )
    return read_own(path, COUNTS, REMAKE)
