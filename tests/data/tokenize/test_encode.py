"""A record becomes token ids, and a mask and weights that say which are learnt, and how much."""

import pytest

from tests.support.chat_templates import CHATML
from tests.support.conversations import documents, stretches


@pytest.mark.parametrize(
    ("row", "learnt"),
    [
        ({"text": "the cat"}, "the cat<eos>"),
        ({"prompt": "the cat", "completion": " sat"}, " sat<eos>"),
    ],
)
def test_the_weight_of_a_row_without_a_template(tokenizers, row, learnt):
    tokenizer = tokenizers["chatml"]
    try:
        tokenizer.chat_template = None
        encoded = {
            weight: documents(tokenizer, {**row, "weight": weight})[0]
            for weight in (0, 0.5, 1, None)
        }
    finally:
        tokenizer.chat_template = CHATML
    assert stretches(tokenizer, encoded[0.5]) == [(learnt, 0.5)]
    assert stretches(tokenizer, encoded[1]) == stretches(tokenizer, encoded[None]) == [(learnt, 1)]
    assert not encoded[0].target_mask.any()
