"""What a value must be, and how a message names what it is not."""

import pytest

from pipeline.external.shapes import (
    COUNT,
    FLAG,
    NUMBER,
    TEXT,
    Every,
    Maybe,
    misfits,
    one_or_more,
    shown,
    whole,
)


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (1, TEXT, "text"),
        ("1", COUNT, "a whole number from 0 to 9,223,372,036,854,775,807"),
        (True, COUNT, "a whole number from 0 to 9,223,372,036,854,775,807"),
        (-1, COUNT, "a whole number from 0 to 9,223,372,036,854,775,807"),
        (1.0, whole(1, 2), "a whole number from 1 to 2"),
        (3, whole(1, 2), "a whole number from 1 to 2"),
        (1, FLAG, "true or false"),
        ("1", NUMBER, "a finite number"),
        (True, NUMBER, "a finite number"),
        (float("nan"), NUMBER, "a finite number"),
        ([1, 3], one_or_more(whole(1, 2)), "a whole number from 1 to 2, or a list of such"),
    ],
)
def test_a_value_of_another_kind_is_named_with_what_it_must_be(value, kind, words):
    assert list(misfits({"a": [value]}, {"a": [kind]})) == [
        f"a[0]: is {shown(value)}; must be {words}"
    ]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("", TEXT),
        (0, COUNT),
        (1, whole(1, 2)),
        (2, whole(1, 2)),
        (False, FLAG),
        (0, NUMBER),
        (0.5, NUMBER),
        ([1, 2], one_or_more(whole(1, 2))),
        (1, one_or_more(whole(1, 2))),
        (None, Maybe(TEXT)),
    ],
)
def test_a_value_of_its_kind_passes(value, kind):
    assert list(misfits(value, kind)) == []


def test_every_fault_of_an_object_is_listed():
    shape = {"name": TEXT, "parts": [{"size": COUNT, "note": Maybe(TEXT)}], "table": Every(COUNT)}
    value = {"parts": [{"size": 1}, {"note": 2}, 3], "table": {"x": 1, "y": None}}
    assert list(misfits(value, shape)) == [
        "name: is missing",
        "parts[1].size: is missing",
        "parts[1].note: is 2; must be text",
        "parts[2]: is 3; must be an object",
        "table.y: is null; must be a whole number from 0 to 9,223,372,036,854,775,807",
    ]
    assert list(misfits({"name": "n", "parts": {}, "table": []}, shape)) == [
        "parts: is {}; must be a list",
        "table: is []; must be an object",
    ]


def test_a_long_value_is_cut():
    assert shown("x" * 100) == '"' + "x" * 59 + "…"
