"""Shows documents as the model sees them: what is read, what is learnt, and what closes it."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerFast

from pipeline.data.preparation.prepare import Preparation
from pipeline.data.settings import PrepareSettings
from pipeline.data.sources.source import BadRows, Row
from pipeline.data.tokenize.document import Encoded
from pipeline.errors import ConfigError, printable, printable_lines

MARKS = {"read": ("", ""), "learnt": ("⟦", "⟧"), "closing": ("⟨", "⟩")}
STYLES = {"read": "default", "learnt": "green", "closing": "bold reverse green"}


class Piece(NamedTuple):
    """A part of a document: its text, and whether it is `read`, `learnt` or `closing`."""

    text: str
    kind: str


LEGEND = [
    Piece("read as context, ", "read"),
    Piece("learnt", "learnt"),
    Piece(", ", "read"),
    Piece("learnt, and closes an answer", "closing"),
]


def show_rows(settings: PrepareSettings, asked: str) -> None:
    """Print the first rows that have something to learn, in colours where there is a terminal.

    Args:
        settings: how rows are prepared.
        asked: how many rows, as the user typed it.

    Raises:
        ConfigError: when that is no number above 0.
        DataError: when rows cannot be used.
    """
    if not asked.isascii() or not asked.isdigit() or int(asked) == 0:
        raise ConfigError(f"--show {asked}: must be a number of rows, 1 or more")
    console = Console()
    for line in lines_of(settings, int(asked), console.is_terminal):
        console.print(line, soft_wrap=True)


def lines_of(settings: PrepareSettings, count: int, in_colour: bool) -> Iterator[Text]:
    """Yield what is printed."""
    yield marked(LEGEND, in_colour)
    with TemporaryDirectory() as folder:
        preparation = Preparation(settings, Path(folder))
        tokenizer = preparation.provide_tokenizer()
        part = preparation.part(preparation.source, Path(folder))
        rows, bad = preparation.source.read(Counter()), BadRows(settings.max_bad_rows)
        for row, documents in islice(part.documents().of(rows, bad, lambda rows: None), count):
            for number, document in enumerate(documents, start=1):
                which = f", document {number} of {len(documents)}" if len(documents) > 1 else ""
                yield Text(f"{place_of(row)}{which}: {facts_of(document)}", style="bold")
                yield marked(pieces_of(document, tokenizer), in_colour)


def place_of(row: Row) -> str:
    """Name the file, the line and the split of a row."""
    return f"{printable(row.file.name)}, line {row.line} ({row.split})"


def facts_of(document: Encoded) -> str:
    """Describe how many tokens are read and learnt, and by which weights."""
    facts = f"{len(document.ids)} tokens, {int(document.target_mask.sum())} learnt"
    if document.weights is None:
        return facts
    weights = document.weights[document.target_mask]
    least, most = f"{weights.min():.3g}", f"{weights.max():.3g}"
    return f"{facts}, weight {least}" + (f" to {most}" if least != most else "")


def pieces_of(document: Encoded, tokenizer: PreTrainedTokenizerFast) -> list[Piece]:
    """Divide the text of a document by what happens to its tokens."""
    ends = np.flatnonzero(np.diff(document.target_mask)) + 1
    closing = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    pieces, start, done = list[Piece](), 0, ""
    for end in (*ends.tolist(), len(document.ids)):
        is_learnt = bool(document.target_mask[start])
        is_closed = is_learnt and int(document.ids[end - 1]) in closing
        for kind, stop in (("learnt" if is_learnt else "read", end - is_closed), ("closing", end)):
            text = common_start(whole(document, tokenizer, stop), whole(document, tokenizer, None))
            if len(text) > len(done):
                pieces.append(Piece(text[len(done) :], kind))
                done = text
        start = end
    return pieces


def whole(document: Encoded, tokenizer: PreTrainedTokenizerFast, stop: int | None) -> str:
    """Return the text of the first tokens; None: of all."""
    ids = document.ids[:stop].tolist()
    return tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)


def common_start(one: str, two: str) -> str:
    """Return what two texts begin with; a token may end inside a letter."""
    length = next(
        (place for place, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(two)),
    )
    return one[:length]


def marked(pieces: list[Piece], in_colour: bool) -> Text:
    """Join pieces, in colours or in brackets; control characters but line feeds are escaped."""
    text = Text()
    for piece in pieces:
        lines = printable_lines(piece.text)
        before, after = ("", "") if in_colour else MARKS[piece.kind]
        text.append(before + lines + after, style=STYLES[piece.kind])
    return text
