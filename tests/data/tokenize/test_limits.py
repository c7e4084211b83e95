"""A tokenizer of a stranger fails as an error, and cannot fill the memory with a text."""

import json

import pytest

from pipeline.data.tokenize.encode import Encoder
from pipeline.data.tokenize.limits import panics_as_errors
from pipeline.data.tokenize.tokenizer import load_tokenizer, train_tokenizer
from pipeline.errors import ModelError
from tests.support.conversations import documents

REPLACE = {"type": "Replace", "pattern": {"String": "a"}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}


@pytest.fixture
def folder(tmp_path):
    train_tokenizer(iter(["the cat sat on the mat"] * 9), 280, tmp_path)
    return tmp_path


def load(folder, **parts):
    """Load a tokenizer with other parts."""
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))
    return load_tokenizer(folder)


def template(single):
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": {**REPLACE, "content": "a" * 65}}, "writes up to 65 letters for one; 64"),
        (
            {
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [{**REPLACE, "content": "aaa"}] * 4,
                }
            },
            "writes up to 81 letters for one",
        ),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 99}}, "up to 99 letters for one"),
        ({"post_processor": template([TEXT] * 65)}, "post_processor writes 65 pieces; 64 are"),
    ],
)
def test_a_tokenizer_that_makes_much_of_little(folder, parts, message):
    with pytest.raises(ModelError, match=rf"{folder}: tokenizer\.json: its .*{message}"):
        load(folder, **parts)


def test_what_real_tokenizers_have_is_taken(folder):
    normalizer = {"type": "Sequence", "normalizers": [{**REPLACE, "content": "b"}] * 20}
    assert Encoder(load(folder, normalizer=normalizer))


@pytest.mark.parametrize("row", [{"text": "a" * 5000}, {"prompt": "x", "completion": "a" * 5000}])
def test_a_pattern_that_tries_too_many_ways(folder, row):
    tokenizer = load(folder, pre_tokenizer={**SPLIT, "pattern": {"Regex": "(a+a+)+c"}})
    with pytest.raises(
        ModelError, match=r"fails with a text: .*retry-limit.*\nLook at the patterns"
    ):
        documents(tokenizer, row)


def test_a_token_that_is_nowhere(folder):
    parts = {"model": {"type": "BPE", "unk_token": "zz", "vocab": {}, "merges": []}}
    with pytest.raises(ModelError, match="fails with a text: Unk token `zz` not found"):
        documents(load(folder, **parts, pre_tokenizer=None), {"text": "a"})


def test_an_id_that_cannot_be_stored(folder):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    model["vocab"]["a"] = 2**32 - 1
    with pytest.raises(ModelError, match="has id 4294967295; the largest that can be stored is"):
        Encoder(load(folder, model=model))


def test_other_errors_stay_what_they_are():
    with pytest.raises(KeyboardInterrupt), panics_as_errors():
        raise KeyboardInterrupt
