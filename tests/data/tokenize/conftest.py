"""What tests of this folder share."""

import pytest

from pipeline.data.tokenize.tokenizer import load_tokenizer, train_tokenizer
from tests.support.chat_templates import CONTROL_TOKENS
from tests.support.conversations import STYLES


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """The same small tokenizer with each of the templates."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(iter(["the cat sat on the mat", "a b c d. look at it"] * 9), 300, folder)
    found = {}
    for style, template in STYLES.items():
        found[style] = load_tokenizer(folder)
        found[style].add_special_tokens({"additional_special_tokens": CONTROL_TOKENS})
        found[style].chat_template = template
    return found
