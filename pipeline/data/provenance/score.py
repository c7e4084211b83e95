"""The provenance scorer: authority weight and provenance entropy of a row, with the reasons.

docs/provenance.md has the formulas and the reasons for them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.data.provenance.tables import CITATION, Tables
from pipeline.data.provenance.time_limit import time_limit
from pipeline.data.rows.metadata import Metadata
from pipeline.data.rows.records import (
    MAX_AUTHORITY_WEIGHT,
    MAX_ENTROPY_BITS,
    Answer,
    Conversation,
    Text,
)


@dataclass(frozen=True)
class Reason:
    """One reason for a score.

    Attributes:
        name: class of the marker, or kind of metadata.
        value: what it adds to its sum: log-odds, or pieces of evidence or doubt.
        because: the words or metadata that caused it.
    """

    name: str
    value: float
    because: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """The scores of a row, and the reasons for them.

    Attributes:
        authority_weight: 0 to 0.99.
        provenance_entropy: bits, 0 or more.
        authority: log-odds; the weight is the logistic function of their sum.
        evidence: pieces of independent evidence.
        doubt: assertions in place of evidence.
        unknown_type: a `source_type` that no table has; None where there is none.
    """

    authority_weight: float
    provenance_entropy: float
    authority: tuple[Reason, ...]
    evidence: tuple[Reason, ...]
    doubt: tuple[Reason, ...]
    unknown_type: str | None


class Scorer:
    """Scores rows by the tables of `data.provenance`."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def score(self, text: str, metadata: Metadata) -> Score:
        """Score a text and what its row says about its source.

        The weight is the logistic function of a sum of log-odds. The entropy is that of a draw
        among the effective pieces of evidence and the text itself: log2(1 + pieces / (1 + doubt)).

        Args:
            text: the content of a row, from `text_of`.
            metadata: the metadata of the row.
        """
        tables, values = self.tables, self.tables.values
        clean = " ".join(f"{metadata.title or ''} {text}".split())
        kind, known = metadata.source_type, metadata.source_type in values.type_authority
        share = values.text_share if known else 1.0
        with time_limit(clean):
            found, year = self.markers(clean, metadata), tables.year_of(clean, metadata)
            institution = list(self.institution(clean, metadata, share))
        authority = [
            self.type_authority(kind if known else None),
            *self.weighed(found, values.authority, share),
            *institution,
        ]
        evidence = list(self.weighed(found, values.evidence, share))
        if known:
            pieces = 2 ** values.type_entropy[str(kind)] - 1
            evidence.insert(0, Reason("source_type", pieces, (str(kind),)))
        if year is not None:
            band, why = tables.band(year[0]), (f"{year[0]} ({year[1]})",)
            authority.append(Reason("year", values.year_authority[band], why))
            evidence.append(Reason("year", values.year_evidence[band], why))
        doubt = list(self.weighed(found, values.doubt, share))
        return Score(
            min(MAX_AUTHORITY_WEIGHT, logistic(total(authority))),
            min(MAX_ENTROPY_BITS, math.log2(1 + total(evidence) / (1 + total(doubt)))),
            tuple(authority),
            tuple(evidence),
            tuple(doubt),
            None if known else kind,
        )

    def markers(self, text: str, metadata: Metadata) -> dict[str, tuple[int, tuple[str, ...]]]:
        """Count the markers of each class; the row's number of citations replaces those found."""
        found: dict[str, list[str]] = {}
        for kind, words in self.tables.markers.find(text):
            found.setdefault(kind, []).append(words)
        counts = {kind: (len(words), tuple(words)) for kind, words in found.items()}
        if metadata.citations is not None:
            counts[CITATION] = (metadata.citations, (f"citations: {metadata.citations}",))
        return counts

    def weighed(
        self,
        found: dict[str, tuple[int, tuple[str, ...]]],
        weights: dict[str, float],
        share: float,
    ) -> Iterator[Reason]:
        """Yield the weight of each class of markers; n of one class count as a power of n."""
        for kind, (count, words) in found.items():
            if count and kind in weights:
                effective = count**self.tables.values.repeat_exponent
                yield Reason(kind, share * weights[kind] * effective, words)

    def type_authority(self, kind: str | None) -> Reason:
        """Return the log-odds of the source type; where it is unknown, those of any text."""
        values = self.tables.values
        if kind is None:
            return Reason("base", log_odds(values.base_authority), ())
        return Reason("source_type", log_odds(values.type_authority[kind]), (kind,))

    def institution(self, text: str, metadata: Metadata, share: float) -> Iterator[Reason]:
        """Yield the strongest institution that publishes the text or is named in it, if any."""
        values = self.tables.values
        candidates = []
        for name in metadata.names:
            for kind, words in self.tables.institutions.find(" ".join(name.split())):
                candidates.append((values.institutions[kind], f"published by {words}"))
        if metadata.host and (domain := self.tables.domain_of(metadata.host)):
            candidates.append((values.domains[domain], metadata.host))
        named = share * values.mention_share
        for kind, words in self.tables.institutions.find(text):
            candidates.append((named * values.institutions[kind], f"names {words}"))
        if candidates:
            value, why = max(candidates)
            yield Reason("institution", value, (why,))


def text_of(content: Text | Answer | Conversation) -> str:
    """Return all text of a row, in one string."""
    match content:
        case Text():
            return content.text
        case Answer():
            return f"{content.prompt}\n{content.completion}"
        case Conversation():
            return "\n".join(message.get("content") or "" for message in content.messages)


def total(reasons: list[Reason]) -> float:
    """Add up the values, exactly in any order."""
    return math.fsum(reason.value for reason in reasons)


def log_odds(share: float) -> float:
    """Return ln(share / (1 - share)); shares of 0 and 1 are moved inwards by 1e-6."""
    share = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(share / (1 - share))


def logistic(odds: float) -> float:
    """Return the share that has these log-odds, from 0 to 1."""
    return 0.5 * (1 + math.tanh(odds / 2))
