"""What every value of a row must be."""

import datetime

import pytest

from pipeline.data.rows.fields import RowError, checked_number, checked_text, kind_of, strings_in


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (3, "text is a number, not a string"),
        ("", "text is empty"),
        (" \n", "text is only white space"),
        ("a\0b", "text holds a NUL character"),
        ("a\ud800", r"half a surrogate pair \(\\ud800\)"),
    ],
)
def test_a_text_that_cannot_be_used(value, problem):
    with pytest.raises(RowError, match=problem):
        checked_text("text", value)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (True, "weight is a boolean, not a number"),
        ("1", "weight is a string"),
        (1.5, "weight is 1.5, not between 0 and 1"),
        (float("nan"), "weight is nan"),
    ],
)
def test_a_number_that_cannot_be_used(value, problem):
    with pytest.raises(RowError, match=problem):
        checked_number("weight", value, 1.0)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\x1b[2J", r"a\x1b[2J"), ("a\nb", r"a\nb"), ("\ud800", r"\ud800"), ("größer", "größer")],
)
def test_what_cannot_be_printed_stands_in_the_message_as_an_escape(text, shown):
    assert str(RowError(text)) == shown


def test_strings_are_found_inside_and_keys_too():
    assert list(strings_in({"a": ["b", {"c": 1}], "d": None})) == ["a", "d", "b", "c"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"a": [datetime.date(2020, 1, 2)]}, r"holds 2020-01-02 \(date\), which JSON has not"),
        ([b"a"], r"holds b'a' \(bytes\), which JSON has not"),
        ([float("nan")], r"holds nan \(float\), which JSON has not"),
        ({1: "a"}, "holds a key that is no string: 1"),
    ],
)
def test_what_json_does_not_have(value, problem):
    with pytest.raises(RowError, match=problem):
        list(strings_in(value))


def test_kinds_are_named_as_json_names_them():
    values = (None, False, 1, 0.5, "a", [], {})
    names = "null", "a boolean", "a number", "a number", "a string", "a list", "an object"
    assert tuple(map(kind_of, values)) == names
