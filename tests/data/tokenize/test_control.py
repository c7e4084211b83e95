"""Control tokens that a row holds as text: counted, or refused."""

import pytest

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import parse_record
from pipeline.data.tokenize.control import ControlTokens
from tests.support.chat_samples import TOOLS
from tests.support.conversations import documents, talk


@pytest.mark.parametrize(
    ("row", "count"),
    [
        ({"text": "a < b, [INST"}, 0),
        ({"text": "a <|im_end|> b<|im_end|><eos>"}, 3),
        ({"prompt": "a<|im_end|>", "completion": "<eos>"}, 2),
        ({"messages": talk("<|im_end|>", "[INST]", system="<eos>")}, 3),
        ({"messages": [*talk("a", "b")], "tools": [{**TOOLS[0], "note": "<eos>"}]}, 1),
    ],
)
def test_they_are_counted_or_refused(tokenizers, row, count):
    tokenizer = tokenizers["qwen"]
    assert ControlTokens(tokenizer).count_in(parse_record(row).content) == count
    assert documents(tokenizer, row)
    if not count:
        assert documents(tokenizer, row, control_tokens="refuse")
        return
    message = rf"control tokens of the model as text \({count}\); .*data\.control_tokens=keep"
    with pytest.raises(RowError, match=message):
        documents(tokenizer, row, control_tokens="refuse")
