"""Messages that list every problem, and no more than a person reads."""

import inspect
import os

import pytest

from pipeline import errors
from pipeline.errors import (
    MAX_LISTED_PROBLEMS,
    DataError,
    PipelineError,
    printable,
    report_problems,
)


def test_no_problem_is_no_error():
    assert report_problems(DataError, "These rows cannot be used:", [], "Mend them.") is None


def test_every_problem_is_listed_between_headline_and_remedy():
    with pytest.raises(DataError) as caught:
        report_problems(DataError, "These rows cannot be used:", ["row 1", "row 7"], "Mend them.")
    assert str(caught.value) == "These rows cannot be used:\n  row 1\n  row 7\nMend them."


def test_without_a_remedy_the_problems_come_last():
    with pytest.raises(PipelineError, match=r"\AHeadline\n  one\Z"):
        report_problems(PipelineError, "Headline", ["one"])


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_a_long_list_is_cut_and_says_how_much_is_left(extra):
    problems = [f"row {i}" for i in range(MAX_LISTED_PROBLEMS + extra)]
    with pytest.raises(DataError) as caught:
        report_problems(DataError, "Headline", problems)
    lines = str(caught.value).splitlines()[1:]
    assert lines[:MAX_LISTED_PROBLEMS] == [f"  {row}" for row in problems[:MAX_LISTED_PROBLEMS]]
    assert lines[MAX_LISTED_PROBLEMS:] == ([f"  and {extra} more"] if extra else [])


def test_a_stage_catches_the_whole_family():
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    family = [kind for kind in kinds if kind.__module__ == errors.__name__]
    assert len(family) == 11
    assert all(issubclass(kind, PipelineError) for kind in family)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layers.0.weight", "layers.0.weight"),
        ("Ä ▁ 日本", "Ä ▁ 日本"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202efdp.exe", r"\u202efdp.exe"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
        ("\x00\x9b", r"\x00\x9b"),
    ],
)
def test_a_name_cannot_change_what_a_person_sees(text, shown):
    assert printable(text) == shown
    with pytest.raises(DataError) as caught:
        report_problems(DataError, "These tensors:", [text, "next"], "Mend them.")
    assert str(caught.value) == f"These tensors:\n  {shown}\n  next\nMend them."


def test_a_message_keeps_its_lines_and_no_other_control():
    assert str(PipelineError("one\n\ttwo\x1b[2J\x07")) == "one\n\ttwo\\x1b[2J\\x07"
