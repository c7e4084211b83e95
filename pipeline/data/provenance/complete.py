"""Adds the numbers of the scorer to rows that carry no provenance, or one number of two."""

from collections import Counter
from typing import Any

from pipeline.config.options import ProvenanceTables
from pipeline.data.provenance.score import Scorer, text_of
from pipeline.data.provenance.tables import Tables
from pipeline.data.rows.records import Record

NUMBERS: tuple[str, ...] = ("authority_weight", "provenance_entropy")
SCORED_COUNTS = ("scored_rows", "half_scored_rows", "unknown_source_types")
SUM_UNITS = 1 << 52
"""Sums are kept in whole units of 1 / 2^52."""


class Completer:
    """Adds missing numbers of provenance to records, and counts them; numbers of a row are kept.

    Args:
        values: the tables of the scorer.
        counts: where what was scored is counted, as `scored_facts` reads it. All are whole
            numbers, so that the sum over several parts is the same in any order.

    Raises:
        ConfigError: when the tables cannot be used.
    """

    def __init__(self, values: ProvenanceTables, counts: Counter[str]) -> None:
        self.scorer, self.counts = Scorer(Tables(values)), counts

    def complete(self, record: Record) -> Record:
        """Return the record with both numbers; those it lacks come from the scorer."""
        missing = [name for name in NUMBERS if getattr(record, name) is None]
        if not missing:
            return record
        score = self.scorer.score(text_of(record.content), record.metadata)
        self.counts["scored_rows" if len(missing) == len(NUMBERS) else "half_scored_rows"] += 1
        self.counts["unknown_source_types"] += score.unknown_type is not None
        found = {name: getattr(score, name) for name in missing}
        for name, value in found.items():
            self.counts[f"{name}_count"] += 1
            self.counts[f"{name}_sum"] += round(value * SUM_UNITS)
        return record._replace(**found)


def scored_facts(counts: Counter[str]) -> dict[str, Any]:
    """Return how many rows were scored, and the means of their scores; None where none was."""
    means = {
        f"scored_mean_{name}": counts[f"{name}_sum"] / count / SUM_UNITS
        if (count := counts[f"{name}_count"])
        else None
        for name in NUMBERS
    }
    return {name: counts[name] for name in SCORED_COUNTS} | means
