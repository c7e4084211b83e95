"""Rows that carry no provenance, or half of it, are given what the scorer finds."""

from collections import Counter
from typing import Any

from pipeline.config.schema import ProvenanceTables
from pipeline.data.provenance.score import Scorer, text_of
from pipeline.data.provenance.tables import Tables
from pipeline.data.rows.records import Record

NUMBERS: tuple[str, ...] = ("authority_weight", "provenance_entropy")


class Completer:
    """Fills in what rows do not say of their provenance, and counts it.

    Numbers that a row carries stay as they are.

    Raises:
        ConfigError: when the tables cannot be used.
    """

    def __init__(self, values: ProvenanceTables) -> None:
        self.scorer = Scorer(Tables(values))
        self.scored = self.half_scored = self.unknown_types = 0
        self._counts: Counter[str] = Counter()
        self._sums: dict[str, float] = dict.fromkeys(NUMBERS, 0.0)

    def complete(self, record: Record) -> Record:
        """Score what is missing of a row's provenance."""
        missing = [name for name in NUMBERS if getattr(record, name) is None]
        if not missing:
            return record
        score = self.scorer.score(text_of(record.content), record.metadata)
        self.scored += len(missing) == len(NUMBERS)
        self.half_scored += len(missing) < len(NUMBERS)
        self.unknown_types += score.unknown_type is not None
        found = {name: getattr(score, name) for name in missing}
        for name, value in found.items():
            self._counts[name] += 1
            self._sums[name] += value
        return record._replace(**found)

    def facts(self) -> dict[str, Any]:
        """Say how many rows were scored, and the mean of the numbers they got; null without."""
        means = {
            f"scored_mean_{name}": self._sums[name] / count
            if (count := self._counts[name])
            else None
            for name in NUMBERS
        }
        return {
            "scored_rows": self.scored,
            "half_scored_rows": self.half_scored,
            "unknown_source_types": self.unknown_types,
            **means,
        }
