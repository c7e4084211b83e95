"""What a row says about its source: read in both places, and refused where it is wrong."""

import math

import pytest

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.metadata import NO_METADATA, Metadata
from pipeline.data.rows.records import parse_record


def read(**row):
    return parse_record({"text": "a", **row}, True).metadata


@pytest.mark.parametrize(
    ("row", "metadata"),
    [
        ({}, NO_METADATA),
        ({"source_type": " Court-Record ", "title": "T"}, Metadata("court_record", title="T")),
        ({"year": 1850}, Metadata(year=1850)),
        ({"year": "1850"}, Metadata(year=1850)),
        ({"year": 1850.0}, Metadata(year=1850)),
        ({"year": -380}, Metadata(year=-380)),
        ({"date": "1913-03-26"}, Metadata(year=1913)),
        ({"date": "26 March 1913"}, Metadata(year=1913)),
        ({"date": "long ago"}, Metadata()),
        ({"date": "1913-03-26", "year": 1920}, Metadata(year=1920)),
        ({"citations": 7}, Metadata(citations=7)),
        ({"citations": ["a", "b"]}, Metadata(citations=2)),
        ({"publisher": "P", "source": "S"}, Metadata(names=("P", "S"))),
        ({"url": "https://En.Wikipedia.org:443/x"}, Metadata(host="en.wikipedia.org")),
        ({"url": "who.int/news"}, Metadata(host="who.int")),
        ({"metadata": {"year": 3, "publisher": "P"}}, Metadata(year=3, names=("P",))),
        ({"metadata": {"year": 3}, "year": 3}, Metadata(year=3)),
        ({"metadata": None, "year": None, "url": "", "other": [1]}, NO_METADATA),
    ],
)
def test_metadata_is_read(row, metadata):
    assert read(**row) == metadata


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"metadata": "x"}, "metadata is a string, not an object"),
        ({"year": 1, "metadata": {"year": 2}}, r"year and metadata\.year differ; keep one"),
        ({"year": "c. 1850"}, r"year is a string \('c\. 1850'\), not a whole number"),
        ({"year": True}, "year is a boolean"),
        ({"year": 1850.5}, r"year is 1850\.5, not a whole number in -3000 to 2100"),
        ({"year": math.nan}, "year is nan"),
        ({"year": 20190}, "year is 20190, not a whole number in -3000 to 2100"),
        ({"citations": -1}, "citations is -1, not a whole number in 0 to"),
        ({"citations": "7"}, r"citations is a string \('7'\), not a whole number"),
        ({"source_type": 3}, "source_type is a number, not a string"),
        ({"publisher": ["P"]}, "publisher is a list, not a string"),
        ({"title": " "}, "title is only white space"),
        ({"date": 1913}, "date is a number, not a string"),
        ({"source": {"a": 1}}, "source is an object, not a string"),
        ({"url": "http://[x"}, r"url is 'http://\[x'"),
    ],
)
def test_wrong_metadata_is_refused(row, message):
    with pytest.raises(RowError, match=message):
        read(**row)
    assert parse_record({"text": "a", **row}).metadata == NO_METADATA  # nobody asked for it
