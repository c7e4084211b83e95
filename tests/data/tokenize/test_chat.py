"""Conversations by the templates of models: answers alone are learnt, each by its weight."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.conversations import (
    CLOSING,
    STYLES,
    THOUGHT,
    TOOLS,
    agent,
    answer_in,
    documents,
    encode,
    say,
    separate_texts,
    stretches,
    talk,
    texts,
)

# --- every style ---


@settings(deadline=None, max_examples=20)
@given(turns=st.lists(st.tuples(say, say), min_size=1, max_size=3))
@pytest.mark.parametrize("style", STYLES)
def test_answers_alone_are_learnt_after_what_the_model_is_given(tokenizers, style, turns):
    tokenizer = tokenizers[style]
    messages = talk(*(text for turn in turns for text in turn))
    assert separate_texts(tokenizer, messages) == [answer_in(style, answer) for _, answer in turns]
    document = documents(tokenizer, {"messages": messages})[-1]
    prompt = tokenizer.apply_chat_template(
        messages[:-1], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(document.ids) == prompt + answer_in(style, turns[-1][1])


@pytest.mark.parametrize("style", ["chatml", "llama", "qwen", "thinking", "mistral"])
def test_a_system_prompt_is_read_and_not_learnt(tokenizers, style):
    tokenizer = tokenizers[style]
    encoded = encode(tokenizer, talk("a", "b", system="Be brief."))
    assert "Be brief." in tokenizer.decode(encoded.ids)
    assert texts(tokenizer, encoded) == [answer_in(style, "b")]


@pytest.mark.parametrize("arguments", [{"at": 'the "hat"'}, json.dumps({"at": 'the "hat"'})])
@pytest.mark.parametrize("style", ["llama", "qwen", "thinking", "mistral"])
def test_calls_are_learnt_and_results_are_read(tokenizers, style, arguments):
    tokenizer = tokenizers[style]
    found = documents(tokenizer, {"messages": agent(arguments), "tools": TOOLS})
    first, last = (text for document in found for text in texts(tokenizer, document))
    assert last == answer_in(style, "In the hat.")
    assert '{"at": "the \\"hat\\""}' in first, "the arguments are an object, however they are given"
    assert "look" in first
    assert first.endswith(CLOSING[style])
    whole = tokenizer.decode(found[-1].ids)
    assert json.dumps(TOOLS) in whole, "the tools are there"
    assert "is" in whole[: -len(last)].split("look")[-1], "the result is before the last answer"


def test_a_call_in_an_earlier_turn(tokenizers):
    """With a call, its thought is that of the last answer, even where that came in between."""
    messages = agent({}) + talk("And now?", "Gone.")
    first, second, third = separate_texts(tokenizers["thinking"], messages, tools=TOOLS)
    assert first.startswith(THOUGHT + "<tool_call>")
    assert first.endswith("</tool_call><|im_end|>")
    assert second == answer_in("thinking", "In the hat.")
    assert third == answer_in("thinking", "Gone.")


def test_a_thought_is_learnt_where_the_template_writes_it(tokenizers):
    tokenizer = tokenizers["thinking"]
    messages = talk("a", "b")
    messages[1]["reasoning_content"] = "Hm."
    assert texts(tokenizer, encode(tokenizer, messages)) == [
        "<think>\nHm.\n</think>\n\nb<|im_end|>"
    ]


# --- all answers, or the last ---


@pytest.mark.parametrize("style", STYLES)
def test_the_last_answer_alone(tokenizers, style):
    tokenizer = tokenizers[style]
    row = {"messages": talk("a", "b", "c", "d")}
    every, last = (documents(tokenizer, row, train_on=train_on) for train_on in ("all", "last"))
    assert texts(tokenizer, last[0]) == [answer_in(style, "d")]
    assert sum(len(texts(tokenizer, document)) for document in every) == 2
    assert last[0].ids.tolist() == every[-1].ids.tolist()


# --- weights ---


def test_weights_of_answers_are_those_of_their_tokens(tokenizers):
    tokenizer = tokenizers["chatml"]
    messages = talk("a", "b", "c", "d", "e", "f")
    messages[1]["weight"], messages[3]["weight"] = 0.25, 0
    encoded = encode(tokenizer, messages)
    assert stretches(tokenizer, encoded) == [("b<|im_end|>", 0.25), ("f<|im_end|>", 1.0)]
    assert encoded.weights.dtype == np.float32
    assert (encoded.weights[~encoded.target_mask] == 1).all()
    assert tokenizer.decode(encoded.ids) == tokenizer.decode(
        encode(tokenizer, talk("a", "b", "c", "d", "e", "f")).ids
    ), "the template does not see them"


def test_zero_and_one_are_a_mask_and_no_weights(tokenizers):
    tokenizer = tokenizers["chatml"]
    messages = talk("a", "b", "c", "d")
    messages[1]["weight"], messages[3]["weight"] = 1, 0
    encoded = encode(tokenizer, messages)
    assert encoded.weights is None
    assert texts(tokenizer, encoded) == ["b<|im_end|>"]
    messages[1]["weight"] = 0
    assert documents(tokenizer, {"messages": messages}) == []


def test_the_weight_of_a_row_multiplies_those_of_its_answers(tokenizers):
    tokenizer = tokenizers["chatml"]
    messages = talk("a", "b", "c", "d")
    messages[1]["weight"] = 0.5
    found = stretches(tokenizer, encode(tokenizer, messages, weight=0.5))
    assert found == [("b<|im_end|>", 0.25), ("d<|im_end|>", 0.5)]


def test_nothing_is_stored_after_the_last_answer_that_is_learnt(tokenizers):
    tokenizer = tokenizers["chatml"]
    messages = talk("a", "b", "c", "d")
    messages[3]["weight"] = 0
    assert encode(tokenizer, messages).ids.tolist() == encode(tokenizer, messages[:2]).ids.tolist()


# --- what a template would leave out ---


def test_arguments_that_are_no_object_stay_as_they_are(tokenizers):
    tokenizer = tokenizers["qwen"]
    for arguments in ("not JSON", "[1]"):
        first, _ = separate_texts(tokenizer, agent(arguments), tools=TOOLS)
        assert f'"arguments": {json.dumps(arguments)}}}' in first
