"""What the process of templates answers: short turns, or what is wrong with a row."""

import io
import marshal

import orjson
import pytest

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Conversation
from pipeline.data.tokenize import chat
from pipeline.data.tokenize.chat import Turn, shortened, turns_of, whole
from pipeline.data.tokenize.closing import closing_of
from pipeline.data.tokenize.template import ChatTemplate
from pipeline.data.tokenize.template_worker import LENGTH, answers_to, read_message, request_of
from pipeline.data.tokenize.tokenizer import chat_template_of
from tests.support.chat_templates import CHATML
from tests.support.conversations import STYLES, documents, talk

TEMPLATE = ChatTemplate(CHATML, CHATML, {"bos_token": "<bos>"}, ("<|im_end|>",), ("<|im_end|>",))


def answered(template, *conversations):
    request = read_message(io.BytesIO(request_of(template, "all", conversations)))
    return [orjson.loads(answer) for answer in answers_to(*marshal.loads(request))]


@pytest.mark.parametrize("style", STYLES)
def test_an_answer_has_the_turns_of_its_row(tokenizers, style):
    template = chat_template_of(tokenizers[style])
    conversation = Conversation(talk("a", "b", "c", "d"), weights=(1.0, 0.5, 1.0, 1.0))
    closing, turns = answered(template, conversation)
    found = closing_of(template)
    assert closing == [found.text, found.token]
    wanted = [*turns_of(template, found, conversation, "all")]
    assert [*whole([Turn(*turn) for turn in turns])] == wanted


def test_prompts_are_sent_without_what_they_repeat():
    """So a long conversation is sent in a size that grows with it, and not with its square."""
    sizes = []
    for count in (100, 200):
        _, turns = answered(TEMPLATE, Conversation(talk(*["a word"] * count)))
        sizes.append(len(orjson.dumps(turns)))
        assert all(turn[-1] for turn in turns[1:])
    assert sizes[1] < 2.1 * sizes[0]


def test_a_prompt_that_does_not_continue_the_turn_before_is_whole():
    turns = [Turn("a", "b", 1.0), Turn("abc", "d", 1.0), Turn("ab", "e", 1.0), Turn("a", "f", 1.0)]
    short = [*shortened(turns)]
    assert [(turn.kept, turn.prompt) for turn in short] == [(0, "a"), (2, "c"), (0, "ab"), (0, "a")]
    assert [*whole(short)] == turns


def test_answers_that_repeat_too_much_are_refused(tokenizers, monkeypatch):
    monkeypatch.setattr(chat, "FREE_LETTERS", 0)
    monkeypatch.setattr(chat, "LETTERS_A_LETTER", 4)
    row = {"messages": talk(*["a word"] * 20)}
    assert len(documents(tokenizers["chatml"], row)) == 1
    with pytest.raises(RowError, match=r"have \d+ letters or more, and the row \d+; more than 0"):
        documents(tokenizers["chatml"], row, turns="separate")
    assert len(documents(tokenizers["chatml"], row, turns="separate", train_on="last")) == 1


def test_a_message_that_is_cut_short_ends_the_process():
    assert read_message(io.BytesIO(b"")) == b""
    assert read_message(io.BytesIO(LENGTH.pack(3)[:4])) == b""
    assert read_message(io.BytesIO(LENGTH.pack(3) + b"abcd")) == b"abc"
