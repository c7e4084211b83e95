"""What a row says about its source, checked; read when rows are scored for provenance."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pipeline.data.rows.fields import RowError, checked_text, kind_of

TEXT_KEYS = ("source_type", "date", "publisher", "source", "title", "url")
KEYS = ("year", "citations", *TEXT_KEYS)
YEARS = range(-3000, 2101)
DATE_YEAR = re.compile(r"(?<!\d)\d{4}(?!\d)")


@dataclass(frozen=True)
class Metadata:
    """The source of a row; None where the row does not say.

    Attributes:
        source_type: kind of source in lower case, words joined by underscores.
        year: of publication, as `year` or else `date` has it; negative before the common era.
        citations: works that the text cites, their number.
        names: publisher and source.
        host: of the address, such as `en.wikipedia.org`, in lower case.
        title: of the work.
    """

    source_type: str | None = None
    year: int | None = None
    citations: int | None = None
    names: tuple[str, ...] = ()
    host: str | None = None
    title: str | None = None


NO_METADATA = Metadata()


def parse_metadata(row: Mapping[str, Any]) -> Metadata:
    """Read the metadata of a row, beside its content or in a `metadata` object.

    Raises:
        RowError: when a value has the wrong type, or stands in both places and differs.
    """
    found = gathered(row)
    texts = {key: checked_text(key, found[key]) for key in TEXT_KEYS if key in found}
    year = parse_year(found["year"]) if "year" in found else None
    source_type = texts.get("source_type")
    return Metadata(
        source_type and re.sub(r"[\W_]+", "_", source_type.strip().lower()),
        year_of_date(texts.get("date", "")) if year is None else year,
        parse_citations(found["citations"]) if "citations" in found else None,
        tuple(texts[key] for key in ("publisher", "source") if key in texts),
        host_of(texts["url"]) if "url" in texts else None,
        texts.get("title"),
    )


def gathered(row: Mapping[str, Any]) -> dict[str, Any]:
    """Collect what stands beside the content and inside `metadata`; null and "" say nothing.

    Raises:
        RowError: when `metadata` is no object, or the two places differ.
    """
    inner = row.get("metadata") or {}
    if not isinstance(inner, Mapping):
        raise RowError(f"metadata is {kind_of(inner)}, not an object")
    found: dict[str, Any] = {}
    for key in KEYS:
        values = [place[key] for place in (row, inner) if place.get(key) not in (None, "")]
        if len(values) == 2 and values[0] != values[1]:
            raise RowError(f"{key} and metadata.{key} differ; keep one")
        if values:
            found[key] = values[0]
    return found


def parse_year(value: object) -> int:
    """Read a year, also from a table that made a float or a string of it.

    Raises:
        RowError: when it is none.
    """
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,4}\s*", value):
        value = int(value)
    return whole_number("year", value, YEARS)


def parse_citations(value: object) -> int:
    """Read how many works are cited: their number, or the list of them.

    Raises:
        RowError: when it is neither.
    """
    if isinstance(value, list):
        return len(value)
    return whole_number("citations", value, range(10**9))


def whole_number(name: str, value: object, allowed: range) -> int:
    """Refuse what is no whole number of a range.

    Raises:
        RowError: with the value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"{name} is {kind_of(value)} ({value!r}), not a whole number")
    if value not in allowed:  # also true for 2019.5 and NaN
        raise RowError(f"{name} is {value}, not a whole number in {allowed[0]} to {allowed[-1]}")
    return int(value)


def year_of_date(date: str) -> int | None:
    """Find the year of a date such as `1913-03-26` or `March 26, 1913`, None where it has none."""
    found = DATE_YEAR.search(date)
    return int(found[0]) if found else None


def host_of(url: str) -> str | None:
    """Find the host of an address, also without `https://`.

    Raises:
        RowError: when the address cannot be read.
    """
    try:
        return urlsplit(url if "//" in url else f"//{url}").hostname
    except ValueError as error:
        raise RowError(f"url is {url!r}: {error}") from None
