"""Where a tokenizer certainly begins a new token, and continuations without a mark before them."""

import pytest

from pipeline.data.tokenize.borders import Borders
from pipeline.data.tokenize.encode import Encoder
from tests.data.tokenize.test_turn_ids import WHOLE, made, tokenizer_of
from tests.support.chat_templates import CHATML


@pytest.mark.parametrize("kind", WHOLE)
def test_tokenizers_that_look_across_control_tokens(kind):
    tokenizer = tokenizer_of(kind)
    tokenizer.chat_template = CHATML
    assert not Encoder(tokenizer).turn_ids.borders.are_certain


def test_the_tail_of_a_prompt_begins_after_its_last_control_token():
    borders = Borders(made("GPT-2"), "<|im_end|>")
    for prompt, tail in [
        ("a<|im_end|>b<|im_start|>c\n", "c\n"),
        ("a<|im_end|>" + "b" * 9999, "b" * 9999),
        ("a<|im_end|>", ""),
        ("a<think>b", "a<think>b"),
        ("", ""),
    ]:
        assert borders.tail(prompt) == tail
    uncertain = Borders(made("GPT-2"), "</think>")
    assert uncertain.tail("a<|im_end|>b") == "a<|im_end|>b", "no control token closes an answer"


def test_a_continuation_has_no_mark_before_it():
    for kind in ("Llama 2", "unknown characters", "a mark before the first word", "a space before"):
        borders = Encoder(made(kind)).turn_ids.borders
        ids = borders.continuation("the cat")
        assert made(kind).convert_ids_to_tokens(ids)[0][0] == "t"
        assert made(kind).encode("the cat", add_special_tokens=False) != ids
