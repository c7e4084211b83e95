"""What precedes an answer in training is what the model is given when it is asked for it.

For every template of the samples, conversations of every shape, and tokenizers of every kind.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import parse_record
from pipeline.data.tokenize.chat import turns_of
from pipeline.data.tokenize.closing import closing_of
from pipeline.data.tokenize.encode import Encoder
from pipeline.data.tokenize.template import as_template_takes
from pipeline.data.tokenize.tokenizer import chat_template_of, load_tokenizer
from tests.data.tokenize.test_kinds_of_tokenizers import KINDS
from tests.support.chat_samples import ADDED, CONTROL, ROWS, templates
from tests.support.chat_templates import CHATML
from tests.support.conversations import documents, talk, texts

STRIPPED = {"rstrip": AddedToken("<|im_end|>", special=True, rstrip=True)}
STRIPPED |= {"lstrip": AddedToken("<|im_end|>", special=True, lstrip=True)}
CUT = ("GPT-2", "Llama 3", "Qwen 2", "lower case", "single digits", "unknown characters")
CUT += ("Llama 2", "a space before", "tokens across spaces", "never a mark before")
WHOLE = ("a mark before the first word", "stripped to the right", "stripped to the left", "drawn")
ASKED = ("GPT-2", "Llama 3", "Llama 2", "a space before", "tokens across spaces", *WHOLE[:-1])
EXACT = ("GPT-2", "Llama 3", "Qwen 2")
"""Kinds that decode to what was encoded."""
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + (
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
STYLES = {"ChatML": CHATML, "no control tokens": PLAIN, "prompts that end in a word": INST}


def with_tokens(backend, tokens=()):
    """Make a tokenizer that has what the templates write."""
    copy = Tokenizer.from_str(backend.to_str())
    given = [token.content for token in tokens]
    copy.add_special_tokens([*tokens, *(name for name in CONTROL if name not in given)])
    copy.add_tokens(ADDED)
    if "ByteLevel" in str(copy.pre_tokenizer):
        copy.decoder = ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=copy, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def tokenizer_of(kind):
    """Make a tokenizer of one kind."""
    if kind == "drawn":
        found = with_tokens(KINDS["GPT-2"])
        found.backend_tokenizer.model.dropout = 0.5
        return found
    if kind.startswith("stripped"):
        side = "rstrip" if kind.endswith("right") else "lstrip"
        return with_tokens(KINDS["GPT-2"], [STRIPPED[side]])
    return with_tokens(KINDS[kind])


def learnt_indices(row, train_on):
    indices = [i for i, m in enumerate(row["messages"]) if m["role"] == "assistant"]
    return indices[-1:] if train_on == "last" else indices


def starts_of(document):
    """List where the stretches begin that are learnt."""
    return np.flatnonzero(np.diff(document.target_mask.astype(int)) == 1) + 1


def asked(tokenizer, row, index):
    """Tokenize what the model is given when it is asked for an answer, by transformers itself."""
    content = as_template_takes(chat_template_of(tokenizer), parse_record(row).content)
    return tokenizer.apply_chat_template(
        content.messages[:index], tools=content.tools, add_generation_prompt=True
    )["input_ids"]


def check(tokenizer, row, **choices):
    """Hold the documents of a row against the law; return how many there are."""
    found = documents(tokenizer, row, **choices)
    train_on = choices.get("train_on", "all")
    starts = [(document, start) for document in found for start in starts_of(document)]
    indices = learnt_indices(row, train_on)
    assert len(starts) == len(indices)
    for (document, start), index in zip(starts, indices, strict=True):
        assert document.ids[:start].tolist() == asked(tokenizer, row, index), index
    return len(found)


@pytest.mark.parametrize("kind", ASKED)
def test_the_ids_before_an_answer_are_those_of_the_prompt(samples, kind):
    tokenizer, kept, numbers = tokenizer_of(kind), 0, set()
    for template, row in itertools.product(templates(samples).values(), ROWS.values()):
        tokenizer.chat_template = template
        for train_on in ("all", "last"):
            try:
                numbers.add(check(tokenizer, row, train_on=train_on))
            except RowError:
                continue
            kept += 1
            if train_on == "all":
                count = check(tokenizer, row, turns="separate")
                assert count == len(learnt_indices(row, "all"))
    assert kept >= 170, "no template refuses more than it has to"
    assert numbers == {1, 2}


@pytest.mark.parametrize("kind", EXACT)
def test_a_document_decodes_to_prompt_and_answer(samples, kind):
    tokenizer = tokenizer_of(kind)
    for template, row in itertools.product(templates(samples).values(), ROWS.values()):
        tokenizer.chat_template = template
        try:
            found = documents(tokenizer, row)
        except RowError:
            continue
        chat_template = chat_template_of(tokenizer)
        closing = closing_of(chat_template)
        turns = [*turns_of(chat_template, closing, parse_record(row).content, "all")]
        for document, turn in zip(found[::-1], turns[::-1], strict=False):
            end = "" if turn.is_closed else "</s>"
            assert tokenizer.decode(document.ids) == turn.prompt + turn.answer + end
            assert texts(tokenizer, document)[-1] == turn.answer + end


# --- pieces that are encoded apart ---

pieces = ["  ", "\n\n", "12345", " the", "cat's", *ADDED, *CONTROL[:2]]
words = st.lists(st.sampled_from([*" \n\tabé猫1'", *pieces])).map("".join)
turns = st.lists(st.tuples(words, words), min_size=1, max_size=3)


def whole(encoder):
    """Make an encoder encode every prompt, and every prompt with its answer, as a whole."""
    encoder.turn_ids.borders.are_certain = False
    return encoder


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", CUT)
@settings(deadline=None, max_examples=25)
@given(turns=turns)
def test_what_is_encoded_apart_has_the_ids_of_the_whole(kind, style, turns):
    said = ["x" + one + "x" * (not one) for turn in turns for one in turn]
    tokenizer = made(kind)
    tokenizer.chat_template = STYLES[style]
    record = parse_record({"messages": talk(*said)})
    apart = Encoder(tokenizer)
    assert apart.turn_ids.borders.are_certain
    one, two = (encoder.encode([record])[0] for encoder in (apart, whole(Encoder(tokenizer))))
    assert len(one) == len(two)
    for document, other in zip(one, two, strict=True):
        assert document.ids.tolist() == other.ids.tolist()
        assert document.target_mask.tolist() == other.target_mask.tolist()


MADE = {}


def made(kind):
    """Make a tokenizer once: hypothesis asks again and again."""
    if kind not in MADE:
        MADE[kind] = tokenizer_of(kind)
    return MADE[kind]


# --- prompts without a template ---


@pytest.mark.parametrize("kind", [*CUT, "a mark before the first word"])
@settings(deadline=None, max_examples=25)
@given(prompt=words, completion=words)
def test_a_completion_continues_its_prompt(kind, prompt, completion):
    prompt, completion = "x" + prompt, completion + "x"
    tokenizer = made(kind)
    tokenizer.chat_template = None
    (document,) = documents(tokenizer, {"prompt": prompt, "completion": completion})
    (start,) = starts_of(document)
    before, both = (tokenizer.encode(text) for text in (prompt, prompt + completion))
    assert document.ids[:start].tolist() == before
    if both[:start] == before:
        assert document.ids.tolist() == [*both, tokenizer.eos_token_id]


def test_no_space_is_put_before_a_completion(samples):
    tokenizer = load_tokenizer(samples / "models/stories260K")
    for prompt, completion in (("foo(", "bar"), ("a t", "ime"), ("a ", " b"), ("a", "b")):
        (document,) = documents(tokenizer, {"prompt": prompt, "completion": completion})
        assert tokenizer.decode(document.ids) == f"<s> {prompt}{completion}</s>"
        start = int(starts_of(document)[0])
        assert document.ids[:start].tolist() == tokenizer.encode(prompt)
