"""The scorer's tables from `conf/data/provenance`, checked and compiled."""

import math

import pytest

from pipeline.data.provenance.tables import Tables
from pipeline.data.rows.metadata import NO_METADATA
from pipeline.errors import ConfigError
from tests.data.provenance.test_score import VALUES
from tests.support.provenance import tables


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"authority": {**VALUES["authority"], "cout": 1.0}}, "authority.cout: .*no such class"),
        ({"evidence": {**VALUES["evidence"], "count": -1.0}}, "count=-1.0: must be at least 0"),
        ({"doubt": {"hearsay": math.inf}}, "doubt.hearsay=inf: must be finite"),
        ({"markers": {**VALUES["markers"], "new": ["a b"]}}, "markers.new: no table weighs it"),
        (
            {"markers": {k: v for k, v in VALUES["markers"].items() if k != "citation"}},
            "no class citation, as which",
        ),
        ({"type_entropy": {"wiki": 1.0}}, "type_entropy has no academic_paper, which"),
        ({"type_authority": {**VALUES["type_authority"], "wiki": 1.0}}, "wiki=1.0: must be betw"),
        ({"years": [1995, 1970]}, r"years=\[1995, 1970\]: must rise"),
        ({"year_authority": [0.0]}, "year_authority has 1 values; it must have one more"),
        ({"year_evidence": [0.0, math.nan, 1.0]}, "year_evidence=.*must be finite"),
        ({"year_evidence": [0.0, -1.0, 1.0]}, "year_evidence=.*at least 0"),
        ({"year_patterns": ["("]}, r"year_patterns: '\(' is no regular expression"),
        ({"year_patterns": ["(" * 9999]}, "year_patterns: .* is no regular expression"),
        ({"year_patterns": [r"\d+"]}, "has 0 groups; it must have one, the year"),
    ],
)
def test_tables_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ConfigError, match=f"(?s)scorer cannot be used:.*{message}"):
        Tables(tables(**changes))


@pytest.mark.parametrize("pattern", [r"(\w+) of", r"of|x(\d{4})", r"(\d+) of"])
def test_a_pattern_that_finds_something_else_than_a_year(pattern):
    found = Tables(tables(year_patterns=[pattern]))
    with pytest.raises(
        ConfigError, match=r"year_patterns: .* finds .*of', in which group 1 is no year; write \("
    ):
        found.year_of("12345 of it", NO_METADATA)
