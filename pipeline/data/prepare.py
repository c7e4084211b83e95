"""Rows to token stores: read, check, split, tokenize, fit, count; in constant memory."""

import gc
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from pipeline.data.documents import Fitter, SplitStore
from pipeline.data.duplicates import DuplicateCounter
from pipeline.data.provenance.complete import Completer
from pipeline.data.settings import PrepareSettings
from pipeline.data.sources.conflicts import pretraining_rows, suite_items
from pipeline.data.sources.ingest import QUARANTINE, BadRows, Splitter, WorldRows
from pipeline.data.sources.table import READERS
from pipeline.data.splits import SPLITS
from pipeline.data.suite import suite_rows
from pipeline.data.tokenize.encode import Encoder
from pipeline.data.tokenize.tokenizer import (
    copy_tokenizer,
    load_tokenizer,
    train_tokenizer,
    vocabulary_size,
)
from pipeline.errors import DataError

SUITE = "conflicts.jsonl"
ROW_COUNTS = (
    "rows",
    "bad_rows",
    "blank_lines",
    "bom_files",
    "crlf_lines",
    "missing_final_newlines",
    "empty_files",
    "undecodable_files",
    "duplicate_documents",
    "leaked_documents",
)
ROWS_PER_REPORT = 1024
TOKENIZER_BYTES = 1 << 25
"""A tokenizer is trained on a sample of about this size: enough to count pairs of letters by, and
the memory that its different words take stays bounded."""
SPLIT_REMEDY = (
    "Give more rows, set data.validation_fraction higher or lower, or put rows of your choice "
    "into valid.jsonl beside train.jsonl, in one folder."
)
Progress = Callable[[str, int], None]


def prepare(
    settings: PrepareSettings, folder: Path, progress: Progress | None = None
) -> tuple[dict[str, Any], list[tuple[int, int, int]]]:
    """Write everything that training reads into a folder that exists and is empty.

    That is `tokenizer/`; the stores `train/`, `validation/` and `test/`, which may be empty; for
    the built-in world its suite `conflicts.jsonl` and, for a new model, the store `pretrain/`;
    and `quarantine.jsonl` where rows were left out.

    Args:
        settings: see there.
        folder: where to write; temporary files are in it too, and gone at the end.
        progress: called with what is being done and the rows done so far.

    Returns:
        The metrics; and how many documents of the training split have which length (from, to,
        documents).

    Raises:
        DataError: when rows cannot be used, or too few are left.
        ModelError: when the tokenizer cannot be used.
    """
    with objects_left_alone():
        return Preparation(settings, folder, progress or (lambda what, rows: None)).run()


class Preparation:
    """One call of `prepare`, which see."""

    def __init__(self, settings: PrepareSettings, folder: Path, progress: Progress) -> None:
        self.settings, self.folder, self.progress = settings, folder, progress
        splitter = Splitter(settings.validation_fraction, settings.test_fraction)
        self.is_scratch = settings.tokenizer_source is None
        self.source = READERS[settings.source](settings, splitter)
        self.is_world = isinstance(self.source, WorldRows)
        self.completer = None
        if settings.provenance is not None:
            self.completer = Completer(settings.provenance)

    def run(self) -> tuple[dict[str, Any], list[tuple[int, int, int]]]:
        """Provide the tokenizer, write the splits with it, then what the built-in world adds."""
        self.provide_tokenizer(self.folder / "tokenizer")
        tokenizer = load_tokenizer(self.folder / "tokenizer")
        self.encoder = Encoder(tokenizer, self.settings.train_on)
        self.vocab_size = self.settings.vocab_size
        if self.is_scratch:  # a small text may give fewer tokens than asked for
            self.vocab_size = vocabulary_size(tokenizer)
        metrics, histogram = self.write_splits()
        if self.is_world:
            self.write_suite(tokenizer)
        if self.is_world and self.is_scratch:
            metrics |= self.write_pretraining()
        return metrics, histogram

    def provide_tokenizer(self, folder: Path) -> None:
        """Take the model's tokenizer, or train one on the training split.

        Raises:
            DataError: when there is nothing to train one on.
        """
        if self.settings.tokenizer_source is not None:
            copy_tokenizer(self.settings.tokenizer_source, folder)
            return
        texts = self.tokenizer_texts()
        first = next(texts, None)
        if first is None:
            raise DataError(f"{self.source.name}: no row falls into train.\n{SPLIT_REMEDY}")
        train_tokenizer(chain([first], texts), self.settings.vocab_size, folder)

    def tokenizer_texts(self) -> Iterator[str]:
        """Give texts of the training split; of very many, a sample that each row's hash decides."""
        share = min(1.0, TOKENIZER_BYTES / max(self.source.total_bytes(), 1))
        bad = BadRows(self.settings.max_bad_rows)
        for number, row in enumerate(self.source.read(bad, Counter())):
            if number % ROWS_PER_REPORT == 0:
                self.progress("tokenizer", number)
            if row.split == "train" and in_sample(row.content_hash, share):
                yield from row.record.content.parts()
        bad.finish()

    def write_splits(self) -> tuple[dict[str, Any], list[tuple[int, int, int]]]:
        """Write train, validation and test, and gather what there is to say about them."""
        counts: Counter[str] = Counter(dict.fromkeys(ROW_COUNTS, 0))
        bad = BadRows(self.settings.max_bad_rows, self.folder / QUARANTINE)
        fitter = self.fitter()
        with ExitStack() as stack:
            stores = {split: stack.enter_context(self.store(split)) for split in SPLITS}
            duplicates = stack.enter_context(DuplicateCounter(self.folder / ".hashes"))
            progress = partial(self.progress, "rows")
            for row, pieces in fitter.documents(self.source.read(bad, counts), bad, progress):
                duplicates.add(row.content_hash, row.split)
                record = self.completer.complete(row.record) if self.completer else row.record
                for piece in pieces:
                    stores[row.split].add(record, piece)
            counts["duplicate_documents"], counts["leaked_documents"] = duplicates.count()
        facts = {split: store.facts() for split, store in stores.items()}
        self.check_sizes({split: facts[split]["documents"] for split in SPLITS}, fitter)
        counts["bad_rows"] = bad.count
        metrics: dict[str, Any] = {**counts, **fitter.counts}
        metrics |= self.completer.facts() if self.completer else {}
        metrics |= {"max_seq_len": self.settings.max_seq_len, "vocab_size": self.vocab_size}
        for split in SPLITS:
            metrics |= {f"{split}_{name}": value for name, value in facts[split].items()}
        return metrics, stores["train"].length_histogram()

    def write_suite(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Write the held-out questions of the built-in world."""
        items = suite_items(self.settings.seed, self.settings.num_contests)
        with (self.folder / SUITE).open("w", encoding="utf-8", newline="\n") as file:
            for item in suite_rows(tokenizer, items):
                file.write(json.dumps(item, ensure_ascii=False) + "\n")

    def write_pretraining(self) -> dict[str, Any]:
        """Write what a new model learns the language from; it has no splits."""
        settings, bad, fitter = self.settings, BadRows(0), self.fitter()
        make = partial(pretraining_rows, settings.seed, settings.num_pretrain_documents)
        rows = WorldRows(self.source.name, make, Splitter(0.0, 0.0)).read(bad, Counter())
        progress = partial(self.progress, "pretraining rows")
        with self.store("pretrain") as store:
            for row, pieces in fitter.documents(rows, bad, progress):
                for piece in pieces:
                    store.add(row.record, piece)
        facts = {**store.facts(), **fitter.counts}
        return {f"pretrain_{name}": value for name, value in facts.items()}

    def fitter(self) -> Fitter:
        """Make what fits documents to the model."""
        settings = self.settings
        limits = (settings.max_seq_len, settings.long_documents, settings.overlap_tokens)
        return Fitter(self.encoder, self.vocab_size, *limits)

    def store(self, name: str) -> SplitStore:
        """Start a store."""
        return SplitStore(self.folder / name, self.vocab_size, self.settings.max_seq_len)

    def check_sizes(self, documents: dict[str, int], fitter: Fitter) -> None:
        """Refuse to go on without a training or a validation split.

        Raises:
            DataError: with how many documents there are, and what to do.
        """
        total, lost = sum(documents.values()), fitter.counts["rows_without_targets"]
        if lost and not total:
            raise DataError(
                f"{self.source.name}: none of the {lost} rows has anything to be learnt within "
                f"data.max_seq_len={self.settings.max_seq_len} tokens.\n"
                "Set it higher, or data.long_documents=split, or give answers a weight above 0."
            )
        for split in ("train", "validation"):
            if not documents[split]:
                raise DataError(
                    f"{self.source.name}: of {total} documents none falls into {split}.\n"
                    f"{SPLIT_REMEDY}"
                )


@contextmanager
def objects_left_alone() -> Iterator[None]:
    """Let the garbage collector pass over all objects that are there now.

    Those of the libraries are many, and millions of rows would make it look at them again and
    again: a quarter of the time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def in_sample(content_hash: bytes, share: float) -> bool:
    """Tell whether a row is in a sample of this share; its split depends on other bits."""
    digest = hashlib.blake2b(content_hash, digest_size=8, person=b"tokenizer").digest()
    return int.from_bytes(digest) < share * 2**64
