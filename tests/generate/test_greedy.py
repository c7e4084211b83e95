"""Text from a model: the story it is known to tell, token by token, with and without a cache."""

import pytest

from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.device import mx
from pipeline.generate.greedy import generate_greedy
from pipeline.model.network.base import load_base, write_manifest
from pipeline.model.network.forward import forward
from pipeline.model.network.upstream import TokenizerWrapper

STORY_TOKENS = 200


@pytest.fixture(scope="module")
def story(samples, tmp_path_factory):
    """A model of 260 thousand parameters that tells stories, and its tokenizer."""
    folder, base = samples / "models/stories260K", tmp_path_factory.mktemp("base")
    write_manifest(base, folder, "stories260K", "hash")
    return load_base(base, "float32").model, TokenizerWrapper(load_tokenizer(folder))


@pytest.fixture(scope="module")
def told(story):
    """What that model says by itself."""
    model, tokenizer = story
    return generate_greedy(model, tokenizer, [tokenizer.bos_token_id], STORY_TOKENS)


def test_the_story_is_the_known_one_to_the_character(told, samples):
    known = (samples / "models/stories260K/greedy.txt").read_text(encoding="utf-8")
    assert len(told.token_ids) == STORY_TOKENS
    assert len(told.text) > 400
    assert told.text == known[: len(told.text)]


def test_the_cache_changes_no_token(story, told):
    model, tokenizer = story
    ids = [tokenizer.bos_token_id, *told.token_ids]
    likeliest = mx.argmax(forward(model, mx.array([ids[:-1]])), axis=-1)
    assert likeliest[0].tolist() == ids[1:]


def test_text_and_tokens_say_the_same(story, told):
    assert story[1].decode(told.token_ids).strip() == told.text.strip()


def test_it_is_cut_at_the_length_asked_for(story, told):
    model, tokenizer = story
    for count in (1, 7):
        short = generate_greedy(model, tokenizer, [tokenizer.bos_token_id], count)
        assert short.finish_reason == "length"
        assert short.token_ids == told.token_ids[:count]
        assert told.text.startswith(short.text)


def test_it_stops_where_the_model_ends_its_text(story, told):
    model, tokenizer = story
    last = told.token_ids[9]  # made to mean the end of the text
    ending = TokenizerWrapper(tokenizer._tokenizer, eos_token_ids=[last])
    stopped = generate_greedy(model, ending, [tokenizer.bos_token_id], STORY_TOKENS)
    assert stopped.finish_reason == "stop"
    length = told.token_ids.index(last) + 1
    assert stopped.token_ids == told.token_ids[:length]
    assert told.text.startswith(stopped.text)
    assert stopped.text == tokenizer.decode(told.token_ids[: length - 1]).lstrip()


def test_a_prompt_is_continued_and_not_repeated(story, told):
    model, tokenizer = story
    prompt = [tokenizer.bos_token_id, *told.token_ids[:20]]
    continued = generate_greedy(model, tokenizer, prompt, 30)
    assert continued.token_ids == told.token_ids[20:50]
    assert continued.text.strip() == tokenizer.decode(told.token_ids[20:50]).strip()


def test_times_are_measured(told):
    assert told.first_token_seconds > 0
    assert told.decode_seconds > 0


def test_the_model_is_set_to_evaluation(story):
    model, tokenizer = story
    model.train()
    generate_greedy(model, tokenizer, [tokenizer.bos_token_id], 1)
    assert not model.training


def test_an_endless_generation_is_as_long_as_asked(story, told):
    model, tokenizer = story
    last = told.token_ids[9]
    ending = TokenizerWrapper(tokenizer._tokenizer, eos_token_ids=[last])
    endless = generate_greedy(model, ending, [tokenizer.bos_token_id], 40, endless=True)
    assert len(endless.token_ids) == 40
    assert last not in endless.token_ids
    assert endless.token_ids[:9] == told.token_ids[:9]


def test_each_piece_of_text_is_shown_as_soon_as_it_is_there(story, told):
    model, tokenizer = story
    shown = []
    short = generate_greedy(model, tokenizer, [tokenizer.bos_token_id], 7, show=shown.append)
    assert "".join(shown) == short.text
    assert len(shown) == 7
