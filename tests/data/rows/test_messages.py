"""The messages and tools of a conversation, checked one by one."""

import pytest

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.messages import checked_messages, checked_tools

ASK = {"role": "user", "content": "Why?"}
ANSWER = {"role": "assistant", "content": "So."}


CALL = {"function": {"name": "f"}}


def nested(levels):
    value = "a"
    for _ in range(levels):
        value = [value]
    return value


def test_null_keys_are_left_out_and_content_stays():
    call = {"role": "assistant", "content": None, "tool_calls": [CALL], "name": None}
    kept = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert checked_messages([ASK, call]) == ([ASK, kept], 0)


@pytest.mark.parametrize(
    ("after", "left_out"),
    [
        ([], 0),
        ([ASK], 1),
        ([ASK, {"role": "tool", "content": ""}], 2),
        ([None, ASK, ANSWER], 3),
        ([{"role": "user", "content": None}, ANSWER], 2),
        ([ASK, {"role": "assistant", "content": None, "weight": None}, ASK, ANSWER], 4),
    ],
)
def test_what_follows_the_last_answer_or_an_empty_turn_is_left_out(after, left_out):
    assert checked_messages([ASK, ANSWER, *after]) == ([ASK, ANSWER], left_out)


def test_a_system_prompt_of_null_is_none():
    assert checked_messages([{"role": "system", "content": None}, ASK, ANSWER])[0] == [ASK, ANSWER]


def test_parts_of_text_are_one_text():
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]
    assert checked_messages([{**ASK, "content": parts}, ANSWER]) == ([ASK, ANSWER], 0)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ("Why?", "messages is a string, not a list"),
        ([], "messages is empty"),
        ([ASK, ANSWER] * 501, "1002 messages; a row may have 1000: write several rows"),
        ([ASK], "there is no answer of the assistant to learn from$"),
        ([{"role": "bot", "content": "a"}], r"messages\[0\]: unknown role 'bot'"),
        ([{"role": "user"}, ANSWER], r"no answer .* before messages\[0\], which is empty"),
        ([{"role": "user", "id": 1}, ANSWER], r"messages\[0\] \(user\) has no content"),
        ([ASK, {**ANSWER, "content": " "}], r"messages\[1\] \(assistant\): content is empty"),
        ([{**ASK, "weight": 0}, ANSWER], r"messages\[0\] \(user\) has a weight"),
        ([{**ASK, "content": 3}, ANSWER], r"messages\[0\] \(user\): content is a number, not a s"),
        (
            [{**ASK, "content": [{"type": "image_url"}]}, ANSWER],
            r"\(user\): content\[0\] is no text; only text can be learnt",
        ),
        (
            [ASK, {**ANSWER, "tool_calls": "f"}],
            r"messages\[1\]: tool_calls is a string, not a l",
        ),
        ([ASK, {**ANSWER, "tool_calls": ["f"]}], r"tool_calls\[0\] names no function"),
        ([ASK, {**ANSWER, "tool_calls": [{"function": {"name": 3}}]}], "names no function"),
        ([ASK, {**ANSWER, "thoughts": nested(101)}], "nested more than 100 levels deep"),
    ],
)
def test_messages_that_cannot_be_used(messages, problem):
    with pytest.raises(RowError, match=problem):
        checked_messages(messages)


def test_tools_are_a_list_of_objects():
    assert checked_tools(None) is None
    assert checked_tools([{"name": "look"}]) == [{"name": "look"}]
    for wrong in (["look"], "look", "{}", "[" * 9999):
        with pytest.raises(RowError, match="tools is not a list of objects"):
            checked_tools(wrong)


def test_tools_may_be_written_as_json():
    assert checked_tools('[{"name": "look"}]') == [{"name": "look"}]
    assert checked_tools(" ") is None
