"""The messages and tools of a conversation, checked one by one."""

import pytest

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.messages import checked_messages, checked_tools

ASK = {"role": "user", "content": "Why?"}
ANSWER = {"role": "assistant", "content": "So."}


def test_null_keys_are_left_out_and_content_stays():
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}], "name": None}
    assert checked_messages([ASK, call]) == [
        ASK,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    ]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ("Why?", "messages is a string, not a list"),
        ([], "messages is empty"),
        ([ASK], "the last message is from 'user'; training needs an answer"),
        ([{"role": "bot", "content": "a"}], r"messages\[0\]: unknown role 'bot'"),
        ([{"role": "user"}], r"messages\[0\] \(user\) has no content"),
        ([ASK, {**ANSWER, "content": " "}], r"messages\[1\] \(assistant\): content is empty"),
        ([{**ASK, "weight": 0}, ANSWER], r"messages\[0\] \(user\) has a weight"),
    ],
)
def test_messages_that_cannot_be_used(messages, problem):
    with pytest.raises(RowError, match=problem):
        checked_messages(messages)


def test_tools_are_a_list_of_objects():
    assert checked_tools(None) is None
    assert checked_tools([{"name": "look"}]) == [{"name": "look"}]
    with pytest.raises(RowError, match="tools is not a list of objects"):
        checked_tools(["look"])
