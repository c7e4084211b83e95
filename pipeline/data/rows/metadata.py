"""The metadata of a row, checked: what it says about its source. Only the scorer reads it."""

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
    """The source of a row; None where the row has no such key.

    Attributes:
        source_type: kind of source in lower case, words joined by underscores.
        year: year of publication from `year`, or else from `date`; negative before the common era.
        citations: number of works that the text cites.
        names: publisher and source.
        host: host of the address, such as `en.wikipedia.org`, in lower case.
        title: title of the work.
    """

    source_type: str | None = None
    year: int | None = None
    citations: int | None = None
    names: tuple[str, ...] = ()
    host: str | None = None
    title: str | None = None


NO_METADATA = Metadata()


def parse_metadata(row: Mapping[str, Any]) -> Metadata:
    """Read the metadata of a row, from its own keys or from its object `metadata`.

    Raises:
        RowError: when a value has the wrong type, or the two differ.
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
    """Collect metadata from the row and its object `metadata`; null and "" count as absent.

    Raises:
        RowError: when `metadata` is no object, or has another value than the row.
    """
    inner = row.get("metadata") or {}
    if not isinstance(inner, Mapping):
        raise RowError(f"metadata is {kind_of(inner)}, not an object")
    found: dict[str, Any] = {}
    for key in KEYS:
        values = [each[key] for each in (row, inner) if each.get(key) not in (None, "")]
        if len(values) == 2 and values[0] != values[1]:
            raise RowError(f"{key} and metadata.{key} differ; keep one")
        if values:
            found[key] = values[0]
    return found


def parse_year(value: object) -> int:
    """Read a year; some tables have it as a float or a string.

    Raises:
        RowError: when it is no year.
    """
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,4}\s*", value):
        value = int(value)
    return whole_number("year", value, YEARS)


def parse_citations(value: object) -> int:
    """Read how many works are cited, from their number or from a list of them.

    Raises:
        RowError: when it is neither.
    """
    if isinstance(value, list):
        return len(value)
    return whole_number("citations", value, range(10**9))


def whole_number(name: str, value: object, allowed: range) -> int:
    """Return a value that is a whole number in a range.

    Raises:
        RowError: when it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"{name} is {kind_of(value)} ({value!r}), not a whole number")
    if value not in allowed:  # also true for 2019.5 and NaN
        raise RowError(f"{name} is {value}, not a whole number in {allowed[0]} to {allowed[-1]}")
    return int(value)


def year_of_date(date: str) -> int | None:
    """Find the year of a date such as `1913-03-26` or `March 26, 1913`; None where it has none."""
    found = DATE_YEAR.search(date)
    return int(found[0]) if found else None


def host_of(url: str) -> str | None:
    """Return the host of an address, which may lack `https://`.

    Raises:
        RowError: when the address cannot be read.
    """
    try:
        return urlsplit(url if "//" in url else f"//{url}").hostname
    except ValueError as error:
        raise RowError(f"url is {url!r}: {error}") from None
