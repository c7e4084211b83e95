"""The ids that a new model takes from its tokenizer."""

import pytest

from pipeline.data.tokenize.tokenizer import train_tokenizer
from pipeline.errors import DataError
from pipeline.files import read_json
from pipeline.train.pretrain import special_ids


@pytest.fixture
def tokenizer(tmp_path):
    train_tokenizer(iter(["some words"]), 270, tmp_path)
    return tmp_path


def test_the_ids_of_the_first_and_the_last_token(tokenizer):
    assert special_ids(tokenizer) == {"bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", "{", "is no JSON"),
        ("tokenizer.json", "{}", r"\n  added_tokens: is missing"),
        (
            "tokenizer.json",
            '{"added_tokens": [{"id": "1"}]}',
            r"\n  added_tokens\[0\]\.content: is missing\n  added_tokens\[0\]\.id: is \"1\"; must",
        ),
        (
            "tokenizer.json",
            '{"added_tokens": []}',
            r"tokens are missing:\n  bos_token: is no",
        ),
        ("tokenizer_config.json", "[]", r"holds \[\]"),
        (
            "tokenizer_config.json",
            '{"bos_token": 1}',
            r"bos_token: is 1; must be text\n  eos_token",
        ),
    ],
)
def test_a_damaged_tokenizer(tokenizer, name, text, message):
    assert isinstance(read_json(tokenizer / name), dict)
    (tokenizer / name).write_text(text)
    remedy = "Run the prepare stage again: `dvc repro --force prepare`"
    with pytest.raises(DataError, match=rf"(?s){name}: .*{message}.*{remedy}"):
        special_ids(tokenizer)
