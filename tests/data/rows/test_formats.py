"""Rows of other formats, as the cards of data sets show them, with their quirks."""

import contextlib

import pytest

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.formats import FORMATS, RowReader
from pipeline.data.rows.records import Answer, Text


def turns(*texts, system=None):
    """Make messages of user and assistant in turn."""
    opening = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant") * len(texts)
    return opening + [{"role": role, "content": text} for role, text in zip(roles, texts)]  # noqa: B905


def messages_of(row, form="auto", columns=None):
    return RowReader(form, columns or {}).record_of(row).content.messages


ALPACA = {"instruction": "Add.", "input": "2 and 3", "output": "5"}
SHAREGPT = {
    "id": "identity_0",
    "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}],
}


@pytest.mark.parametrize("form", ["auto", "alpaca"])
@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (ALPACA, turns("Add.\n\n2 and 3", "5")),
        ({**ALPACA, "input": ""}, turns("Add.", "5")),
        ({**ALPACA, "input": None, "category": "sums"}, turns("Add.", "5")),
        ({**ALPACA, "system": "Be brief."}, turns("Add.\n\n2 and 3", "5", system="Be brief.")),
        ({**ALPACA, "history": [["a", "b"]]}, turns("a", "b", "Add.\n\n2 and 3", "5")),
        ({**ALPACA, "history": []}, turns("Add.\n\n2 and 3", "5")),
    ],
)
def test_alpaca(form, row, messages):
    assert messages_of(row, form) == messages


def test_the_text_that_the_first_alpaca_carries_is_taken_only_where_that_is_asked_for():
    row = {**ALPACA, "text": "Below is an instruction. Add. 5"}
    assert messages_of(row, "alpaca") == turns("Add.\n\n2 and 3", "5")
    assert RowReader("plain").record_of(row).content == Text(row["text"])
    with pytest.raises(RowError, match="the row has text, and instruction, output as rows of alp"):
        RowReader().record_of(row)


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}


@pytest.mark.parametrize("form", ["auto", "sharegpt"])
@pytest.mark.parametrize(
    ("conversations", "more", "messages"),
    [
        (SHAREGPT["conversations"], {}, turns("Who?", "I.")),
        (SHAREGPT["conversations"], {"system": "Be."}, turns("Who?", "I.", system="Be.")),
        (SHAREGPT["conversations"], {"system": ""}, turns("Who?", "I.")),
        (
            [{"from": "system", "value": "Be."}, *SHAREGPT["conversations"]],
            {},
            turns("Who?", "I.", system="Be."),
        ),
        ([*SHAREGPT["conversations"], {"from": "human", "value": "?"}], {}, turns("Who?", "I.")),
        ([*SHAREGPT["conversations"], {"from": "human", "value": None}], {}, turns("Who?", "I.")),
        (turns("Who?", "I."), {}, turns("Who?", "I.")),
        (
            [
                {"from": "human", "value": "2?"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
                {"from": "observation", "value": "4"},
                {"from": "gpt", "value": "4."},
            ],
            {"tools": '[{"name": "add"}]'},
            [
                *turns("2?"),
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "4"},
                {"role": "assistant", "content": "4."},
            ],
        ),
    ],
)
def test_sharegpt(form, conversations, more, messages):
    assert messages_of({"id": "1", "conversations": conversations, **more}, form) == messages


def test_columns_are_renamed():
    row = {"ask": "2 + 2 =", "say": " 4", "id": 7, "trust": 0.5}
    columns = {"ask": "prompt", "say": "completion", "trust": "auth_weight", "absent": "cluster"}
    record = RowReader(columns=columns).record_of(row)
    assert (record.content, record.authority_weight) == (Answer("2 + 2 =", " 4"), 0.5)


def test_two_columns_may_change_places():
    row = {"prompt": "b", "completion": "a"}
    columns = {"prompt": "completion", "completion": "prompt"}
    assert RowReader(columns=columns).record_of(row).content == Answer("a", "b")


def test_columns_lead_to_a_format():
    row = {"question": "Add.", "reply": "5", "chat": None}
    columns = {"question": "instruction", "reply": "output"}
    assert messages_of(row, columns=columns) == turns("Add.", "5")


@pytest.mark.parametrize(
    ("row", "form", "columns", "problem"),
    [
        ({"text": "a", "body": "b"}, "auto", {"body": "text"}, "the row has body and text, and"),
        ({"instruction": "a"}, "alpaca", {}, "needs output; the row has instruction"),
        ({}, "sharegpt", {}, "needs conversations; the row has nothing"),
        ({**ALPACA, "input": 3}, "auto", {}, "input is a number, not a string"),
        ({**ALPACA, "history": "a"}, "auto", {}, r"history\[0\] is no list of a question and an"),
        ({**ALPACA, "history": [["a"]]}, "auto", {}, r"history\[0\] is no list of a question"),
        ({**ALPACA, "history": [["a", 1]]}, "auto", {}, r"history\[0\] is a number"),
        ({"conversations": "a"}, "auto", {}, "conversations is a string, not a list"),
        ({"conversations": ["a"]}, "auto", {}, r"conversations\[0\] is a string, not an object"),
        (
            {"conversations": [{"from": "function_call", "value": "add(2)"}]},
            "auto",
            {},
            r"conversations\[0\] \(function_call\) is no JSON object",
        ),
        ({"conversations": [{"from": "bot", "value": "a"}]}, "auto", {}, "unknown role 'bot'"),
        ({**SHAREGPT, "messages": []}, "auto", {}, "the row has messages, and conversations as"),
        ([], "sharegpt", {}, "the row is a list, not an object"),
    ],
)
def test_rows_that_are_not_of_their_format(row, form, columns, problem):
    with pytest.raises(RowError, match=problem):
        RowReader(form, columns).record_of(row)


@pytest.mark.parametrize("form", FORMATS)
def test_no_format_changes_the_row_it_is_given(form):
    row = {**ALPACA, **SHAREGPT}
    before = repr(row)
    with contextlib.suppress(RowError):
        RowReader(form).record_of(row)
    assert repr(row) == before
