"""Joins parts that were written apart: the result is that of reading them one after the other."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from pipeline.data.preparation.part import HASHES, Part, Written
from pipeline.data.preparation.processes import Result
from pipeline.data.sources.source import QUARANTINE, BadRows
from pipeline.data.splits import SPLITS
from pipeline.data.store import TokenStore, TokenStoreWriter
from pipeline.errors import MAX_LISTED_PROBLEMS, PipelineError


def joined(results: Iterable[tuple[Part, Result]], whole: Part) -> Written:
    """Append the stores, hashes and bad rows of each part to those of the whole.

    Args:
        results: the parts in their order, each with what is known of it or the error that stopped
            it. The folder of a part is removed once it is appended.
        whole: describes all rows; everything is written to its folder.

    Returns:
        The sums of the counts, and the documents of all parts that are too long.

    Raises:
        PipelineError: the first error in the order of the rows.
    """
    counts, too_long = Counter[str](), list[str]()
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
            counts.update(result.counts)
            too_long += result.too_long
            if len(too_long) >= MAX_LISTED_PROBLEMS:
                return Written(counts, too_long)
            for split, store in stores.items():
                store.append(TokenStore(part.folder / split))
            with (part.folder / HASHES).open("rb") as file:
                shutil.copyfileobj(file, hashes)
            shutil.rmtree(part.folder)
        bad.finish()
    return Written(counts, too_long)


def add_bad_rows(part: Part, bad: BadRows) -> None:
    """Read the bad rows of a part from its quarantine, and add them.

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
