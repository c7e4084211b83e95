"""The scorer's tables from `conf/data/provenance`, checked and compiled."""

import math
import re
from collections.abc import Iterator

from pipeline.config.options import ProvenanceTables
from pipeline.data.provenance.phrases import NO_PATTERN, Phrases
from pipeline.data.rows.metadata import Metadata
from pipeline.errors import ConfigError, report_problems

CITATION = "citation"
"""The class of markers that the number of citations in a row's metadata replaces."""
MAX_DIGITS = 4
"""Of a year."""
PREFIX = "data.provenance.tables"


class Tables:
    """The tables of the scorer, ready for use.

    Attributes:
        values: the tables from the configuration.
        markers: finds the marker classes in a text.
        institutions: finds institutions by name.

    Raises:
        ConfigError: when tables do not go together, or a phrase cannot be used.
    """

    def __init__(self, values: ProvenanceTables) -> None:
        report_problems(
            ConfigError,
            "The tables of the provenance scorer cannot be used:",
            list(contradictions(values)),
        )
        self.values = values
        self.markers = Phrases(f"{PREFIX}.markers", values.markers)
        names = {name: [name] for name in values.institutions}
        self.institutions = Phrases(f"{PREFIX}.institutions", names)
        self._years = [re.compile(pattern) for pattern in values.year_patterns]

    def year_of(self, text: str, metadata: Metadata) -> tuple[int, str] | None:
        """Find the year of publication and what states it; other years in a text do not count.

        Raises:
            ConfigError: when a pattern finds something else than a year.
        """
        if metadata.year is not None:
            return metadata.year, "metadata"
        for regex in self._years:
            if match := regex.search(text):
                return year_in(match), match[0]
        return None

    def band(self, year: int) -> int:
        """Return the index of the band of a year; 0 is before the first of `years`."""
        return sum(year >= limit for limit in self.values.years)

    def domain_of(self, host: str) -> str | None:
        """Find the longest domain of the table that a host equals or belongs to."""
        labels = host.split(".")
        ends = (".".join(labels[start:]) for start in range(len(labels)))
        return next((end for end in ends if end in self.values.domains), None)


def year_in(match: re.Match[str]) -> int:
    """Return the year that a pattern has found.

    Raises:
        ConfigError: when it is no number of four digits or less.
    """
    year = match[1] or ""
    if not year.isdecimal() or len(year) > MAX_DIGITS:
        raise ConfigError(
            f"{PREFIX}.year_patterns: {match.re.pattern!r} finds {match[0][:60]!r}, in which group "
            "1 is no year; write ([0-9]{4}) there."
        )
    return int(year)


def contradictions(values: ProvenanceTables) -> Iterator[str]:
    """Describe what in the tables does not fit together."""
    weighing = {name: getattr(values, name) for name in ("authority", "evidence", "doubt")}
    for name, table in weighing.items():
        for kind in sorted(table.keys() - values.markers.keys()):
            yield f"{PREFIX}.{name}.{kind}: {PREFIX}.markers has no such class"
        if name != "authority":
            for kind in sorted(kind for kind, value in table.items() if value < 0):
                yield f"{PREFIX}.{name}.{kind}={table[kind]}: must be at least 0"
    for kind in sorted(values.markers.keys() - set().union(*weighing.values())):
        yield f"{PREFIX}.markers.{kind}: no table weighs it; add it to {', '.join(weighing)}"
    if CITATION not in values.markers:
        yield f"{PREFIX}.markers has no class {CITATION}, as which a row's citations count"
    yield from contradictions_of_types(values)
    yield from contradictions_of_years(values)
    numbers = {"institutions": values.institutions, "domains": values.domains, **weighing}
    for name, table in numbers.items():
        for kind, value in table.items():
            if not math.isfinite(value):
                yield f"{PREFIX}.{name}.{kind}={value}: must be finite"


def contradictions_of_types(values: ProvenanceTables) -> Iterator[str]:
    """Describe source types that lack a number, or have one out of range."""
    pairs = {"type_authority": (values.type_authority, 0.99)}
    pairs["type_entropy"] = (values.type_entropy, 64)
    known = values.type_authority.keys() | values.type_entropy.keys()
    for name, (table, most) in pairs.items():
        for kind in sorted(known - table.keys()):
            yield f"{PREFIX}.{name} has no {kind}, which the other table of types has"
        for kind, value in table.items():
            if not 0 <= value <= most:
                yield f"{PREFIX}.{name}.{kind}={value}: must be between 0 and {most}"


def contradictions_of_years(values: ProvenanceTables) -> Iterator[str]:
    """Describe what is wrong with the bands of years and the patterns that find years."""
    if values.years != sorted(set(values.years)):
        yield f"{PREFIX}.years={values.years}: must rise"
    for name in ("year_authority", "year_evidence"):
        numbers = getattr(values, name)
        if len(numbers) != len(values.years) + 1:
            yield f"{PREFIX}.{name} has {len(numbers)} values; it must have one more than years"
        if not all(math.isfinite(number) for number in numbers):
            yield f"{PREFIX}.{name}={numbers}: must be finite"
    if min(values.year_evidence, default=0) < 0:
        yield f"{PREFIX}.year_evidence={values.year_evidence}: must be at least 0"
    for pattern in values.year_patterns:
        yield from (f"{PREFIX}.year_patterns: {pattern!r} {what}" for what in wrong_year(pattern))


def wrong_year(pattern: str) -> Iterator[str]:
    """Describe why a pattern cannot find years."""
    try:
        groups = re.compile(pattern).groups
    except NO_PATTERN as error:
        yield f"is no regular expression: {error}"
        return
    if groups != 1:
        yield f"has {groups} groups; it must have one, the year"
