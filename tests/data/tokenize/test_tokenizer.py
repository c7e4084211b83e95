"""Tokens decode to the text, answers alone are learnt, and a record is opened and closed once."""

import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import parse_record
from pipeline.data.tokenize.encode import Encoder
from pipeline.data.tokenize.tokenizer import (
    BOS,
    EOS,
    load_tokenizer,
    train_tokenizer,
    vocabulary_size,
)
from pipeline.errors import ModelError
from pipeline.external.tokenizer_files import copy_tokenizer, tokenizer_hash
from tests.support.conversations import documents

TEXTS = ["the cat sat on the mat", "the dog saw the cat", "a mat, a cat, a dog; naïve 猫"] * 9
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + CHATML
# The last answer is preceded by an empty thought, earlier ones are not.
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if loop.last and message.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
UNCLOSED = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
DATED = "{{ strftime_now('%d %B %Y') }}\n" + CHATML
STRICT = "{{ raise_exception('roles must alternate') }}"
NUMBERED = "{{ messages | length }}" + CHATML
SILENT = "{% for message in messages %}{{ message.role[:0] }}{% endfor %}"

say = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: text.strip() and "<" not in text
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(iter(TEXTS), 300, folder)
    return folder


@pytest.fixture(scope="module")
def plain(folder):
    return load_tokenizer(folder)


@pytest.fixture
def chat(folder):
    """Make a tokenizer with a chat template."""

    def make(template=CHATML):
        tokenizer = load_tokenizer(folder)
        tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]}
        )
        tokenizer.chat_template = template
        return tokenizer

    return make


def conversation(*contents):
    """Make a row of messages from user and assistant in turn."""
    roles = ["user", "assistant"] * len(contents)
    pairs = zip(roles, contents, strict=False)
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


def encode(tokenizer, row):
    ((ids, mask, _),) = documents(tokenizer, row)
    return ids, mask


def learnt(tokenizer, ids, mask):
    """Read the stretches that are to be learnt."""
    borders = np.flatnonzero(np.diff(mask.astype(int))) + 1
    stretches = zip(np.split(ids, borders), np.split(mask, borders), strict=True)
    return [tokenizer.decode(part) for part, is_target in stretches if is_target[0]]


# --- the tokenizer ---


@settings(deadline=None)
@given(say)
def test_any_text_survives(plain, text):
    ids, mask = encode(plain, {"text": text})
    assert plain.decode(ids) == f"{BOS}{text}{EOS}"
    assert ids.dtype == np.int32
    assert mask.tolist() == [False] + [True] * (len(ids) - 1)
    assert ids.max() < vocabulary_size(plain)


def test_training_is_deterministic(folder, tmp_path):
    for name, texts in (("again", TEXTS), ("reordered", TEXTS[::-1])):
        train_tokenizer(iter(texts), 300, tmp_path / name)
        assert tokenizer_hash(tmp_path / name) == tokenizer_hash(folder)
    train_tokenizer(iter(TEXTS), 280, tmp_path / "smaller")
    assert tokenizer_hash(tmp_path / "smaller") != tokenizer_hash(folder)
    assert vocabulary_size(load_tokenizer(tmp_path / "smaller")) == 280


def test_a_small_text_gives_fewer_tokens_than_asked_for(tmp_path):
    train_tokenizer(iter(["ab ab"]), 5000, tmp_path)
    assert 259 < vocabulary_size(load_tokenizer(tmp_path)) < 270


def test_transformers_reads_the_folder_alike(folder, plain):
    other = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for text in TEXTS:
        assert other(text)["input_ids"] == plain(text)["input_ids"]
    assert (other.bos_token, other.eos_token, other.pad_token) == (BOS, EOS, "<pad>")


def test_an_error_in_the_texts_comes_through(tmp_path):
    def texts():
        yield "a"
        raise RowError("broken")

    with pytest.raises(RowError, match="broken"):
        train_tokenizer(texts(), 300, tmp_path)


def test_limits_and_padding_of_the_file_are_lifted(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tokenizer = load_tokenizer(folder)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    ids = [
        encode(load_tokenizer(each), {"text": TEXTS[0]})[0].tolist() for each in (tmp_path, folder)
    ]
    assert ids[0] == ids[1]


def test_folders_without_a_tokenizer(tmp_path):
    for use in (load_tokenizer, tokenizer_hash, lambda each: copy_tokenizer(each, tmp_path / "x")):
        with pytest.raises(
            ModelError, match=r"has no tokenizer\.json\.\nWrite one there with tran"
        ):
            use(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="the tokenizer cannot be read"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_an_end(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=r"no end-of-sequence token.*\nSet eos_token in tokenizer_"
    ):
        load_tokenizer(tmp_path)


# --- text, prompt and completion ---


def test_the_end_is_written_once(plain):
    ids, _ = encode(plain, {"text": "the cat"})
    again, _ = encode(plain, {"text": f"the cat{EOS}"})
    assert ids.tolist() == again.tolist()
    assert (ids == plain.eos_token_id).sum() == 1


@settings(deadline=None)
@given(prompt=say, completion=say)
def test_only_the_completion_is_learnt(plain, prompt, completion):
    ids, mask = encode(plain, {"prompt": prompt, "completion": completion})
    assert plain.decode(ids) == f"{BOS}{prompt}{completion}{EOS}"
    assert learnt(plain, ids, mask) == [completion + EOS]
    # what is not learnt is what the model is given when it is used
    assert ids[~mask].tolist() == plain(prompt)["input_ids"]


def test_a_tokenizer_that_closes_everything_does_not_close_the_prompt(folder):
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, 1), (EOS, 2)]
    )
    ids, mask = encode(tokenizer, {"prompt": "the cat", "completion": " sat"})
    assert tokenizer.decode(ids) == f"{BOS}the cat sat{EOS}"
    assert learnt(tokenizer, ids, mask) == [f" sat{EOS}"]
    ids, _ = encode(tokenizer, {"text": "the cat"})
    assert tokenizer.decode(ids) == f"{BOS}the cat{EOS}"


def test_the_beginning_is_not_written_twice(plain, chat):
    for row in ({"text": f"{BOS}the cat"}, {"prompt": f"{BOS}the", "completion": "cat"}):
        with pytest.raises(RowError, match=r"starts with <bos> twice: .* take it out of the row"):
            encode(plain, row)
    with pytest.raises(RowError, match="starts with <bos> twice"):
        encode(chat("{{ bos_token }}" + WITH_BOS), conversation("a", "b"))
    ids, _ = encode(chat(WITH_BOS), conversation("a", "b"))
    assert (ids == chat().bos_token_id).sum() == 1, "written by the template alone"
    ids, _ = encode(chat(CHATML), conversation("a", "b"))
    assert (ids == chat().bos_token_id).sum() == 0


# --- conversations ---


@settings(deadline=None)
@given(st.lists(st.tuples(say, say), min_size=1, max_size=3))
def test_every_answer_and_nothing_else_is_learnt(folder, turns):
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = WITH_BOS
    row = conversation(*(text for turn in turns for text in turn))
    ids, mask = encode(tokenizer, row)
    text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    assert tokenizer.decode(ids) + "\n" == text
    assert learnt(tokenizer, ids, mask) == [f"{answer}<|im_end|>" for _, answer in turns]
    prompt = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True)
    first_prompt = ids[: len(prompt["input_ids"])]
    assert first_prompt.tolist() == prompt["input_ids"], "what the model is given when it is used"


def test_prompt_and_completion_are_a_conversation_where_there_is_a_template(chat):
    tokenizer = chat()
    one = encode(tokenizer, {"prompt": "the cat", "completion": "sat"})
    two = encode(tokenizer, conversation("the cat", "sat"))
    assert [part.tolist() for part in one] == [part.tolist() for part in two]


def test_text_is_never_put_into_a_template(chat):
    tokenizer = chat()
    ids, _ = encode(tokenizer, {"text": "the cat"})
    assert tokenizer.decode(ids) == f"{BOS}the cat{EOS}"


def test_a_template_that_writes_the_last_answer_in_another_way(chat):
    tokenizer = chat(THINKING)
    found = documents(tokenizer, conversation("a", "b", "c", "d"))
    assert [learnt(tokenizer, ids, mask) for ids, mask, _ in found] == [
        [f"<think>\n\n</think>\n\n{answer}<|im_end|>"] for answer in ("b", "d")
    ]


def test_an_answer_that_the_template_does_not_close_is_closed(chat):
    tokenizer = chat(UNCLOSED)
    ids, mask = encode(tokenizer, conversation("a", "b"))
    assert tokenizer.decode(ids) == f"user: a\nassistant: b\n{EOS}"
    assert learnt(tokenizer, ids, mask) == [f"assistant: b\n{EOS}"]
    closed, _ = encode(chat(CHATML), conversation("a", "b"))
    assert EOS not in tokenizer.decode(closed), "the template has closed it"


def test_templates_do_not_know_today(chat):
    tokenizer = chat(DATED)
    ids, _ = encode(tokenizer, conversation("a", "b"))
    assert tokenizer.decode(ids).startswith("26 July 2024\n<|im_start|>user\na")


def test_tools_reach_the_template(chat):
    tokenizer = chat("{{ tools[0].name if tools else 'no tools' }}\n" + CHATML)
    row = conversation("a", "b")
    assert tokenizer.decode(encode(tokenizer, row)[0]).startswith("no tools\n")
    row["tools"] = [{"name": "search"}]
    assert tokenizer.decode(encode(tokenizer, row)[0]).startswith("search\n")


@pytest.mark.parametrize(
    ("template", "row", "message"),
    [
        (None, conversation("a", "b"), "the tokenizer of this model no chat template; write it as"),
        (STRICT, conversation("a", "b"), "template refuses the messages: roles must alternate"),
        ("{{ messages[9].content }}", conversation("a", "b"), "template refuses the messages"),
        ("{% if", conversation("a", "b"), "template refuses the messages"),
        (NUMBERED, conversation("a", "b"), r"messages\[1\]: .* prompt and answer cannot be told"),
        (
            SILENT,
            conversation("a", "b"),
            r"messages\[1\]: the chat template leaves out its content",
        ),
        (
            CHATML,
            {"messages": [{"role": "assistant", "content": "a"}]},
            r"messages\[0\] is from 'assistant'; there is nothing that it answers",
        ),
    ],
)
def test_conversations_that_cannot_be_learnt(chat, template, row, message):
    with pytest.raises(RowError, match=message):
        encode(chat(template), row)


# --- many at once ---


def test_records_together_are_as_they_are_alone(chat):
    tokenizer = chat()
    rows = [
        {"text": "the cat"},
        conversation("a", "b", "c", "d"),
        {"messages": [{"role": "assistant", "content": "a"}]},
        {"prompt": "the", "completion": "dog"},
        {"text": f"{BOS}the"},
        {"text": "a"},
    ]
    results = Encoder(tokenizer).encode([parse_record(row) for row in rows])
    assert [isinstance(result, RowError) for result in results] == [0, 0, 1, 0, 1, 0]
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, RowError):
            with pytest.raises(RowError, match=re.escape(str(result))):
                encode(tokenizer, row)
            continue
        for part, alone in zip(result[0][:2], encode(tokenizer, row), strict=True):
            np.testing.assert_array_equal(part, alone)
    assert Encoder(tokenizer).encode([]) == []


def test_real_rows_with_a_real_tokenizer(samples):
    tokenizer = load_tokenizer(samples / "models/stories260K")
    lines = (samples / "data/wikisql/train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    results = Encoder(tokenizer).encode([parse_record(row) for row in rows])
    lengths = [len(result[0].ids) for result in results]
    assert (round(np.mean(lengths)), max(lengths)) == (201, 604)
    for row, result in zip(rows, results, strict=True):
        assert result[0].ids.tolist() == [
            *tokenizer(row["text"])["input_ids"],
            tokenizer.eos_token_id,
        ]
