"""One part of the rows, which is written to its own stores; all rows are one or more parts."""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.data.preparation.documents import TokenizedDocuments
from pipeline.data.provenance.complete import Completer
from pipeline.data.rows.records import Record
from pipeline.data.settings import PrepareSettings
from pipeline.data.sources.source import BadRows, RowSource
from pipeline.data.splits import SPLITS
from pipeline.data.store import TokenStoreWriter
from pipeline.data.tokenize.document import Encoded
from pipeline.data.tokenize.encode import Encoder
from pipeline.data.tokenize.tokenizer import load_tokenizer

HASHES = ".hashes"
"""The file in the folder of a part that has the hash of each document and its split, as entries of
`pipeline.data.preparation.duplicates`."""
SPLIT_BYTES = {split: bytes([index]) for index, split in enumerate(SPLITS)}


class Written(NamedTuple):
    """What is known of a part after it was written.

    Attributes:
        counts: what was counted; the sums over all parts are the counts of all rows.
        too_long: file, line and length of each document that is too long, where that is refused.
    """

    counts: Counter[str]
    too_long: list[str]


@dataclass(frozen=True)
class Part:
    """Some of the rows, and the folder they are written to.

    Attributes:
        settings: settings of the whole preparation.
        source: reads the rows.
        tokenizer: folder of the tokenizer.
        vocab_size: every id that the model knows is below it.
        folder: where a store for each split and the hashes are written.
    """

    settings: PrepareSettings
    source: RowSource
    tokenizer: Path
    vocab_size: int
    folder: Path

    def write(self, bad: BadRows, progress: Callable[[int], None]) -> Written:
        """Read, tokenize and store the rows.

        Args:
            bad: collects those that cannot be used.
            progress: called with the number of rows done so far.

        Raises:
            DataError: when rows cannot be used.
            ModelError: when the tokenizer cannot be used.
        """
        counts, documents, tables = Counter[str](), self.documents(), self.settings.provenance
        completer = None if tables is None else Completer(tables, counts)
        with ExitStack() as stack:
            stores = {
                split: stack.enter_context(TokenStoreWriter(self.folder / split, self.vocab_size))
                for split in SPLITS
            }
            hashes = stack.enter_context((self.folder / HASHES).open("wb"))
            for row, pieces in documents.of(self.source.read(counts), bad, progress):
                hashes.write(row.content_hash + SPLIT_BYTES[row.split])
                record = completer.complete(row.record) if completer else row.record
                add_pieces(stores[row.split], record, pieces)
        counts["bad_rows"] = bad.count
        return Written(counts + documents.counts, documents.too_long)

    def documents(self) -> TokenizedDocuments:
        """Load the tokenizer, and return what turns rows into documents that fit the model."""
        settings = self.settings
        choices = (settings.train_on, settings.turns, settings.control_tokens)
        encoder = Encoder(load_tokenizer(self.tokenizer), *choices)
        limits = (settings.max_seq_len, settings.long_documents, settings.overlap_tokens)
        return TokenizedDocuments(encoder, self.vocab_size, *limits)


def add_pieces(store: TokenStoreWriter, record: Record, pieces: Iterable[Encoded]) -> None:
    """Add the documents that were made of a record, each with its provenance."""
    provenance = record.authority_weight, record.provenance_entropy
    for piece in pieces:
        store.add(piece.ids, piece.target_mask, *provenance, piece.weights)
