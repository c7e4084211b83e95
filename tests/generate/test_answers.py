"""Answers: asked as in training, ended where answers end, within the positions of the model."""

import json

import numpy as np
import pytest
from tokenizers import AddedToken

from pipeline.data.rows.records import Answer, Record
from pipeline.data.tokenize.encode import Encoder
from pipeline.data.tokenize.tokenizer import load_tokenizer, train_tokenizer, vocabulary_size
from pipeline.errors import ConfigError
from pipeline.generate.answers import AnswerGenerator
from pipeline.model.scratch import initialize, llama_config
from tests.support.prepared import CHATML, sentences
from tests.support.small import TINY_SHAPE

POSITIONS = TINY_SHAPE["max_position_embeddings"]
CLOSING = "<end>"
ENDS_OTHERWISE = CHATML.replace("<eos>", CLOSING)
REFUSES = "{{ raise_exception('no system message') }}"


@pytest.fixture(scope="module")
def make_base(tmp_path_factory):
    """Make a folder with a config and a tokenizer, as models/base has them."""

    def make(template=None):
        folder = tmp_path_factory.mktemp("base")
        train_tokenizer(iter(sentences(50)), 300, folder)
        tokenizer = load_tokenizer(folder)
        tokenizer.add_tokens(AddedToken(CLOSING, special=True), special_tokens=True)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
        config = llama_config(TINY_SHAPE, vocabulary_size(tokenizer), ids)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.fixture(scope="module")
def base(make_base):
    return make_base()


@pytest.fixture(scope="module")
def chat_base(make_base):
    return make_base(ENDS_OTHERWISE)


def test_without_a_template_a_prompt_begins_as_a_text_does(base):
    tokenizer = load_tokenizer(base)
    [ids] = AnswerGenerator(base, 5).prompts({"--prompt": "the cat"})
    assert ids == [tokenizer.bos_token_id, *tokenizer.encode("the cat", add_special_tokens=False)]


def test_with_a_template_a_prompt_is_a_question_in_it(chat_base):
    tokenizer = load_tokenizer(chat_base)
    [ids] = AnswerGenerator(chat_base, 5).prompts({"--prompt": "the cat\n sat"})
    written = f"<|user|>the cat\n sat{CLOSING}<|assistant|>"
    assert ids == tokenizer.encode(written, add_special_tokens=False)


def test_a_row_is_read_up_to_its_answer_with_the_tokens_of_its_prompt(chat_base):
    encoder = Encoder(load_tokenizer(chat_base))
    [[row]] = encoder.encode([Record(Answer("the cat", "sat on the mat"))])
    before = row.ids[: int(np.argmax(row.target_mask))].tolist()
    assert AnswerGenerator(chat_base, 5).prompts({"--prompt": "the cat"}) == [before]


def test_an_answer_ends_at_an_end_token_or_at_what_closes_answers_in_training(base, chat_base):
    for folder, names in ((base, ["<eos>"]), (chat_base, ["<eos>", CLOSING])):
        ends = set(load_tokenizer(folder).convert_tokens_to_ids(names))
        assert AnswerGenerator(folder, 5).tokenizer.eos_token_ids == ends


@pytest.mark.parametrize(("length", "count"), [(3, 5), (POSITIONS - 5, 5), (POSITIONS - 2, 2)])
def test_prompt_and_answer_fit_into_the_positions(base, length, count):
    answers = AnswerGenerator(base, 5)
    answers.tokenizer.eos_token_ids = []
    config = json.loads((base / "config.json").read_text())
    assert len(answers.answer(initialize(config, seed=0), [7] * length).token_ids) == count
    assert answers.has_room([7] * length)
    assert not answers.has_room([7] * POSITIONS)


def test_every_prompt_that_cannot_be_asked_is_named(base):
    texts = {"a": "", "b": "the cat", "c": "the \udcff", "d": "the cat " * POSITIONS}
    match = (
        r"These prompts cannot be asked:\n  a: it is empty\n  c: it is no text in UTF-8\n"
        rf"  d: it has \d+ tokens, and the model has {POSITIONS} positions\nWrite something else"
    )
    with pytest.raises(ConfigError, match=match):
        AnswerGenerator(base, 5).prompts(texts)


def test_a_template_that_refuses_a_question_is_quoted(make_base):
    answers = AnswerGenerator(make_base(REFUSES), 5)
    with pytest.raises(
        ConfigError, match=r"--prompt: the chat template refuses.*no system message"
    ):
        answers.prompts({"--prompt": "the cat"})


def test_text_is_written_without_control_tokens(chat_base):
    answers = AnswerGenerator(chat_base, 5)
    ids = answers.tokenizer.encode(f"the cat{CLOSING}", add_special_tokens=False)
    assert answers.text_of(ids) == "the cat"
