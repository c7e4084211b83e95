"""Prints scores of provenance with their reasons.

python -m stages.prepare --explain FILE.jsonl [KEY=VALUE ...]
python -m stages.prepare --explain "a text"   [KEY=VALUE ...]
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.options import ProvenanceTables
from pipeline.data.provenance.score import Reason, Score, Scorer, text_of
from pipeline.data.provenance.tables import Tables
from pipeline.data.rows.fields import RowError
from pipeline.data.rows.formats import RowReader
from pipeline.data.rows.records import Record
from pipeline.data.sources.jsonl import iterate_lines, parse_line
from pipeline.errors import ConfigError, DataError

SHOWN_WORDS = 3
SHOWN_CHARACTERS = 60


def explain(
    values: ProvenanceTables | None, subject: str, max_line_bytes: int, reader: RowReader
) -> Iterator[str]:
    """Yield the lines that explain the scores of a JSONL file, or of one text.

    Args:
        values: the tables in use; None where the scorer is off.
        subject: path of a file. Where no such file exists, it is the text itself, unless it ends
            in `.jsonl`.
        max_line_bytes: longest line of a file.
        reader: makes records of its rows, with their metadata.

    Raises:
        ConfigError: when there are no tables, or they cannot be used.
        DataError: when there is no such file, or one of its rows cannot be read.
    """
    if values is None:
        raise ConfigError(
            f"--explain {subject}: there are no tables to score with.\n"
            "Leave out data/provenance=none."
        )
    scorer, path = Scorer(Tables(values)), Path(subject)
    is_file = len(subject) < 4096 and "\n" not in subject and path.is_file()
    if not is_file and subject.endswith(".jsonl"):
        raise DataError(
            f"--explain {subject}: there is no such file.\nGive a JSONL file or a text."
        )
    if not is_file:
        yield from explained("the text", reader.record_of({"text": subject}), scorer)
        return
    for line, raw in iterate_lines(path, max_line_bytes, Counter()):
        if raw.strip():
            try:
                record = reader.record_of(parse_line(raw, max_line_bytes))
            except RowError as error:
                raise DataError(f"{path}, line {line}: {error}") from None
            yield from explained(f"{path.name}, line {line}", record, scorer)


def explained(where: str, record: Record, scorer: Scorer) -> Iterator[str]:
    """Yield the lines of one row: its numbers, and the reasons for them."""
    text = text_of(record.content)
    score = scorer.score(text, record.metadata)
    yield f"{where}: {shortened(' '.join(text.split()), SHOWN_CHARACTERS)}"
    yield from numbers(record, score)
    sections = [
        ("log-odds of authority", score.authority),
        ("pieces of evidence", score.evidence),
        ("doubt", score.doubt),
    ]
    for heading, reasons in sections:
        if reasons:
            yield f"  {heading}"
        for reason in reasons:
            yield f"    {reason.name:<12} {reason.value:+7.2f}  {because(reason)}"
    if score.unknown_type:
        yield f"  source_type {score.unknown_type!r} is in no table; the text alone was scored"
    yield ""


def numbers(record: Record, score: Score) -> Iterator[str]:
    """Yield a line for each number; one that the row carries is used in place of the score."""
    for name, unit in (("authority_weight", ""), ("provenance_entropy", " bits")):
        own, scored = getattr(record, name), getattr(score, name)
        used = "" if own is None else f"; the row says {own:g}, which counts"
        yield f"  {name:<20} {scored:.2f}{unit}{used}"


def because(reason: Reason) -> str:
    """List the first words that caused a reason, and how many more there are."""
    words = [shortened(word, SHOWN_CHARACTERS) for word in reason.because[:SHOWN_WORDS]]
    more = len(reason.because) - len(words)
    return ", ".join([*words, *([f"and {more} more"] if more else [])])


def shortened(text: str, longest: int) -> str:
    """Cut a text to a length in characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
