"""Parts that were written apart become one, as if they had been read one after the other."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from pipeline.data.preparation.part import HASHES, Counts, Part
from pipeline.data.preparation.processes import Result
from pipeline.data.sources.ingest import QUARANTINE, BadRows
from pipeline.data.splits import SPLITS
from pipeline.data.store import TokenStore, TokenStoreWriter
from pipeline.errors import PipelineError


def joined(results: Iterable[tuple[Part, Result]], whole: Part) -> Counts:
    """Append the stores, hashes and bad rows of each part to those of the whole.

    Args:
        results: the parts in their order, with their counts or the error that stopped them. The
            folder of a part is removed as soon as it is appended.
        whole: its folder gets everything.

    Raises:
        PipelineError: the first in the order of the rows.
    """
    counts = Counts(Counter(), Counter(), Counter())
    bad = BadRows(whole.settings.max_bad_rows, whole.folder / QUARANTINE)
    with ExitStack() as stack:
        stores = {
            split: stack.enter_context(TokenStoreWriter(whole.folder / split, whole.vocab_size))
            for split in SPLITS
        }
        hashes = stack.enter_context((whole.folder / HASHES).open("wb"))
        for part, result in results:
            add_bad_rows(part, bad)
            if isinstance(result, PipelineError):
                bad.finish()
                raise result
            for total, own in zip(counts, result, strict=True):
                total.update(own)
            for split, store in stores.items():
                store.append(TokenStore(part.folder / split))
            with (part.folder / HASHES).open("rb") as file:
                shutil.copyfileobj(file, hashes)
            shutil.rmtree(part.folder)
        bad.finish()
    return counts


def add_bad_rows(part: Part, bad: BadRows) -> None:
    """Add the bad rows of a part, as they stand in its quarantine.

    Raises:
        DataError: when there are too many.
    """
    quarantine = part.folder / QUARANTINE
    if quarantine.exists():
        with quarantine.open(encoding="utf-8") as file:
            for line in file:
                entry = json.loads(line)
                path = Path(entry["file"])
                bad.add(path, entry["line"], entry["row"].encode(), entry["reason"])
