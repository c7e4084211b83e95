"""Nothing that a row says is left out by a template unnoticed."""

import pytest

from pipeline.data.rows.fields import RowError
from pipeline.data.tokenize.left_out import missing_parts
from tests.data.tokenize.test_turn_ids import tokenizer_of
from tests.support.chat_samples import RESULT, ROWS, answer, calling, templates, user
from tests.support.conversations import documents

CALLS_ALONE = (
    "{% for m in messages %}{% if m.tool_calls %}"
    "{% for call in m.tool_calls %}{{ call.function | tojson }}{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}"
)
NAMES_ALONE = CALLS_ALONE.replace("call.function | tojson", "call.function.name")
ANSWERS_ALONE = (
    "{% for m in messages %}{% if m.role != 'tool' %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}"
    "<|im_end|>{% endif %}{% endfor %}"
)


@pytest.fixture
def tokenizer():
    return tokenizer_of("Llama 3")


@pytest.mark.parametrize(
    ("template", "message", "problem"),
    [
        (CALLS_ALONE, calling({"at": "x"}, "LETME"), "leaves out its content; take it out of"),
        (CALLS_ALONE, calling({"at": "x"}, "look"), "leaves out its content"),
        (CALLS_ALONE, answer("ANS", reasoning="HM"), "leaves out its reasoning"),
        (CALLS_ALONE, answer("ANS", thinking="HM"), "leaves out its reasoning"),
        (CALLS_ALONE, calling({}, "LETME", thinking="HM"), "leaves out its content, its reasoning"),
        (NAMES_ALONE, calling({"at": "x"}), "leaves out argument 'at' of the call of 'look'"),
        (NAMES_ALONE, calling({"": 12.5}), "leaves out argument '' of the call of 'look'"),
        (NAMES_ALONE, calling({"a": {"b": [True]}}), "leaves out argument 'a' of the call of"),
        (NAMES_ALONE, calling("no JSON"), "leaves out argument '' of the call of 'look'"),
        ("{% for m in messages %}<|im_end|>{% endfor %}", calling({}), "the call of 'look';"),
    ],
)
def test_parts_of_an_answer(tokenizer, template, message, problem):
    tokenizer.chat_template = template
    with pytest.raises(RowError, match=r"messages\[1\]: the chat template .*" + problem):
        documents(tokenizer, {"messages": [user("Q1"), message]})


@pytest.mark.parametrize("value", ['a "b"\n', "é", 5, 2.5, True, False, None, [1, {"k": "v"}], ""])
def test_arguments_are_found_however_they_are_written(tokenizer, value):
    tokenizer.chat_template = CALLS_ALONE
    assert documents(tokenizer, {"messages": [user("Q1"), calling({"at": value})]})
    tokenizer.chat_template = NAMES_ALONE.replace("name }}", "name }}{{ call.function.arguments }}")
    assert documents(tokenizer, {"messages": [user("Q1"), calling({"at": value})]})


def test_two_parts_are_not_found_in_one_place():
    assert missing_parts([("one", "ab"), ("two", "ab")], "ab") == ["two"]
    assert missing_parts([("one", "b"), ("two", "abc")], "abc b") == []
    assert missing_parts([("one", "b"), ("two", "abc")], "abc") == ["one"]


def test_what_stands_before_an_answer(tokenizer):
    tokenizer.chat_template = ANSWERS_ALONE
    row = {"messages": [user("Q1"), calling({}, "LETME"), RESULT, answer("ANS")]}
    with pytest.raises(RowError, match=r"messages\[2\] \(tool\): the .* leaves it out; choose a"):
        documents(tokenizer, row)


def test_a_thought_that_a_row_has_twice(samples, tokenizer):
    tokenizer.chat_template = templates(samples)["qwen3"]
    message = answer("ANS", reasoning="HM", thinking="OTHER")
    with pytest.raises(RowError, match="has reasoning, thinking, which differ; keep one thought"):
        documents(tokenizer, {"messages": [user("Q1"), message]})
    message["thinking"] = "HM"
    assert documents(tokenizer, {"messages": [user("Q1"), message]})


def test_thoughts_of_earlier_turns_are_learnt(samples, tokenizer):
    """The template drops them from later prompts, so each answer is a document of its own."""
    tokenizer.chat_template = templates(samples)["qwen3"]
    first, second = documents(tokenizer, ROWS["two thoughts"])
    one, two = (tokenizer.decode(document.ids) for document in (first, second))
    assert [text in one for text in ("HM1", "HM2")] == [True, False]
    assert [text in two for text in ("HM1", "HM2")] == [False, True]
