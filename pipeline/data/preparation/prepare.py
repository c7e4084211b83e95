"""From rows to token stores, in constant memory: everything that the prepare stage writes."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedTokenizerFast

from pipeline.data.preparation.collector import freeze_gc
from pipeline.data.preparation.documents import (
    COUNTS,
    length_histogram,
    refuse_long,
    split_facts,
)
from pipeline.data.preparation.duplicates import count_duplicates
from pipeline.data.preparation.join import joined
from pipeline.data.preparation.part import HASHES, Part, Written, add_pieces
from pipeline.data.preparation.processes import num_processes, results_of
from pipeline.data.preparation.suite import suite_rows
from pipeline.data.provenance.complete import scored_facts
from pipeline.data.provenance.tables import Tables
from pipeline.data.rows.formats import RENAMED
from pipeline.data.settings import PrepareSettings
from pipeline.data.sources.conflicts import pretraining_rows, suite_items
from pipeline.data.sources.source import QUARANTINE, BadRow, BadRows, RowSource, Splitter
from pipeline.data.sources.table import READERS
from pipeline.data.sources.world import WorldRows
from pipeline.data.splits import SPLITS
from pipeline.data.store import TokenStore, TokenStoreWriter
from pipeline.data.tokenize.own_template import set_template
from pipeline.data.tokenize.tokenizer import load_tokenizer, train_tokenizer, vocabulary_size
from pipeline.errors import DataError
from pipeline.external.tokenizer_files import copy_tokenizer

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
"""About how many bytes of text a tokenizer is trained on. Training keeps every different word in
memory, so larger texts are sampled; this is enough to find which pairs of letters are frequent."""
ROWS_REMEDY = "Give a file with a row on each line; docs/data.md describes rows."
SPLIT_REMEDY = (
    "Give more rows, set data.validation_fraction higher or lower, or put rows of your choice "
    "into valid.jsonl next to train.jsonl, in one folder."
)
Progress = Callable[[str, int], None]


def prepare(
    settings: PrepareSettings, folder: Path, progress: Progress | None = None
) -> tuple[dict[str, Any], list[tuple[int, int, int]]]:
    """Write everything that training reads into a folder that exists and is empty.

    That is `tokenizer/`; the stores `train/`, `validation/` and `test/`, of which `test/` may be
    empty; for the built-in world its suite `conflicts.jsonl` and, for a new model, the store
    `pretrain/`; and `quarantine.jsonl` where rows were left out.

    Args:
        settings: what to prepare, and how.
        folder: where to write; temporary files are in it too, and are removed at the end.
        progress: called with the name of the phase and the number of rows done so far.

    Returns:
        The metrics; and a histogram of lengths of the training split in tokens: from, to
        (inclusive), documents.

    Raises:
        DataError: when rows cannot be used, or too few are left.
        ModelError: when the tokenizer cannot be used.
    """
    with freeze_gc():
        return Preparation(settings, folder, progress).run()


class Preparation:
    """The state of one call of `prepare`."""

    def __init__(
        self, settings: PrepareSettings, folder: Path, progress: Progress | None = None
    ) -> None:
        self.settings, self.folder = settings, folder
        self.progress = progress or (lambda what, rows: None)
        self.tokenizer, self.vocab_size = folder / "tokenizer", settings.vocab_size
        splitter = Splitter(settings.validation_fraction, settings.test_fraction)
        self.source = READERS[settings.source](settings, splitter)
        self.is_world = isinstance(self.source, WorldRows)
        self.is_scratch = settings.tokenizer_source is None
        if settings.provenance is not None:
            Tables(settings.provenance)  # wrong tables stop before rows are read

    def run(self) -> tuple[dict[str, Any], list[tuple[int, int, int]]]:
        """Provide the tokenizer, write the splits with it, then the files of the built-in world."""
        tokenizer = self.provide_tokenizer()
        metrics, histogram = self.write_splits()
        if self.is_world:
            self.write_suite(tokenizer)
        if self.is_world and self.is_scratch:
            metrics |= self.write_pretraining()
        return metrics, histogram

    def provide_tokenizer(self) -> PreTrainedTokenizerFast:
        """Write the tokenizer with its chat template, and load it."""
        settings = self.settings
        if settings.tokenizer_source is None:
            self.train_tokenizer()
        else:
            copy_tokenizer(settings.tokenizer_source, self.tokenizer)
        source = settings.tokenizer_source
        set_template(self.tokenizer, settings.chat_template, settings.template_kwargs, source)
        tokenizer = load_tokenizer(self.tokenizer, source)
        if self.is_scratch:  # a small text may give fewer tokens than asked for
            self.vocab_size = vocabulary_size(tokenizer)
        return tokenizer

    def train_tokenizer(self) -> None:
        """Train a tokenizer on the training split.

        Raises:
            DataError: when there is nothing to train one on.
        """
        texts = self.tokenizer_texts()
        first = next(texts, None)
        if first is None:
            raise DataError(f"{self.source.name}: no row falls into train.\n{SPLIT_REMEDY}")
        train_tokenizer(chain([first], texts), self.settings.vocab_size, self.tokenizer)

    def tokenizer_texts(self) -> Iterator[str]:
        """Yield texts of the training split, or a sample of them that each row's hash decides."""
        share = min(1.0, TOKENIZER_BYTES / max(self.source.total_bytes(), 1))
        bad = BadRows(self.settings.max_bad_rows)
        for number, row in enumerate(self.source.read(Counter())):
            if number % ROWS_PER_REPORT == 0:
                self.progress("tokenizer", number)
            if isinstance(row, BadRow):
                bad.add(row.file, row.line, row.raw, str(row.error))
            elif row.split == "train" and in_sample(row.content_hash, share):
                yield from row.record.content.parts()
        bad.finish()

    def write_splits(self) -> tuple[dict[str, Any], list[tuple[int, int, int]]]:
        """Write train, validation and test; return the metrics and the histogram."""
        counts, too_long = self.write_parts()
        refuse_long(too_long, self.settings.max_seq_len)
        hashes = self.folder / HASHES
        found = count_duplicates(hashes, self.folder)
        counts["duplicate_documents"], counts["leaked_documents"] = found
        hashes.unlink()
        stores = {split: TokenStore(self.folder / split) for split in SPLITS}
        lost = counts["rows_without_targets"]
        self.check_sizes({split: len(store) for split, store in stores.items()}, lost)
        metrics: dict[str, Any] = {name: counts[name] for name in (*ROW_COUNTS, *COUNTS)}
        if self.settings.provenance is not None:
            metrics |= scored_facts(counts)
        unused = [name for name in self.settings.columns if not counts[RENAMED + name]]
        if unused:
            metrics["unused_columns"] = unused
        metrics |= {"max_seq_len": self.settings.max_seq_len, "vocab_size": self.vocab_size}
        for split, store in stores.items():
            facts = split_facts(store)
            metrics |= {f"{split}_{name}": value for name, value in facts.items()}
        return metrics, length_histogram(stores["train"], self.settings.max_seq_len)

    def write_parts(self) -> Written:
        """Write the stores, in several processes where there are many bytes in several files."""
        sources = self.source.divided(num_processes(self.source.total_bytes()))
        progress = partial(self.progress, "rows")
        if len(sources) == 1:
            bad = BadRows(self.settings.max_bad_rows, self.folder / QUARANTINE)
            return self.part(self.source, self.folder).write(bad, progress)
        with TemporaryDirectory(prefix=".parts", dir=self.folder) as folder:
            parts = list[Part]()
            for number, source in enumerate(sources):
                parts.append(self.part(source, Path(folder, str(number))))
                parts[-1].folder.mkdir()
            with closing(results_of(parts, progress)) as results:
                return joined(results, self.part(self.source, self.folder))

    def write_suite(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Write the held-out questions of the built-in world."""
        items = suite_items(self.settings.seed, self.settings.num_contests)
        with (self.folder / SUITE).open("w", encoding="utf-8", newline="\n") as file:
            for item in suite_rows(tokenizer, items):
                file.write(json.dumps(item, ensure_ascii=False) + "\n")

    def write_pretraining(self) -> dict[str, Any]:
        """Write the documents from which a new model learns the language; they have no splits."""
        settings, folder = self.settings, self.folder / "pretrain"
        make = partial(pretraining_rows, settings.seed, settings.num_pretrain_documents)
        rows = WorldRows(self.source.name, make, Splitter(0.0, 0.0)).read(Counter())
        documents = self.part(self.source, folder).documents()
        progress = partial(self.progress, "pretraining rows")
        with TokenStoreWriter(folder, self.vocab_size) as store:
            for row, pieces in documents.of(rows, BadRows(0), progress):
                add_pieces(store, row.record, pieces)
        refuse_long(documents.too_long, settings.max_seq_len)
        counts = {name: documents.counts[name] for name in COUNTS}
        facts = split_facts(TokenStore(folder)) | counts
        return {f"pretrain_{name}": value for name, value in facts.items()}

    def part(self, source: RowSource, folder: Path) -> Part:
        """Return a part of this preparation."""
        return Part(self.settings, source, self.tokenizer, self.vocab_size, folder)

    def check_sizes(self, documents: dict[str, int], lost: int) -> None:
        """Refuse to go on without a training or a validation split.

        Raises:
            DataError: with how many documents there are, and what to do.
        """
        total = sum(documents.values())
        if lost and not total:
            raise DataError(
                f"{self.source.name}: none of the {lost} rows has anything to be learnt within "
                f"data.max_seq_len={self.settings.max_seq_len} tokens.\n"
                "Set it higher, or data.long_documents=split, or give answers a weight above 0."
            )
        if not total:
            raise DataError(f"{self.source.name}: there are no rows.\n{ROWS_REMEDY}")
        for split in ("train", "validation"):
            if not documents[split]:
                raise DataError(
                    f"{self.source.name}: of {total} documents none falls into {split}.\n"
                    f"{SPLIT_REMEDY}"
                )


def in_sample(content_hash: bytes, share: float) -> bool:
    """Whether a row is in a sample of this share, independently of the split it is in."""
    digest = hashlib.blake2b(content_hash, digest_size=8, person=b"tokenizer").digest()
    return int.from_bytes(digest) < share * 2**64
