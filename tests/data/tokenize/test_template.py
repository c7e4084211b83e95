"""The chat template of a model: applied as it is, and nothing that it leaves out goes unnoticed."""

import pytest

from pipeline.data.rows.fields import RowError
from tests.support.chat_templates import CHATML
from tests.support.conversations import STYLES, TOOLS, agent, documents, encode, talk, texts


@pytest.mark.parametrize("style", STYLES)
def test_the_beginning_is_written_by_the_template_alone(tokenizers, style):
    tokenizer = tokenizers[style]
    ids = encode(tokenizer, talk("a", "b")).ids
    assert (ids == tokenizer.bos_token_id).sum() == ("bos_token" in STYLES[style])
    doubled = tokenizers["chatml"]
    with pytest.raises(RowError, match="starts with <bos> twice"):
        try:
            doubled.chat_template = "{{ bos_token }}" + CHATML
            encode(doubled, talk("a", "b"))
        finally:
            doubled.chat_template = CHATML


@pytest.mark.parametrize("row", [{"tools": TOOLS}, {"system": "Be brief."}])
def test_templates_that_move_a_part_to_the_last_turn(tokenizers, row):
    """What an earlier answer was given is not what a later one is given: two documents."""
    tokenizer = tokenizers["mistral"]
    row = {"messages": talk("a", "b", "c", "d", system=row.pop("system", None)), **row}
    first, second = documents(tokenizer, row)
    assert texts(tokenizer, first) + texts(tokenizer, second) == [" b<eos>", " d<eos>"]
    moved = "Be brief." if "tools" not in row else "look"
    assert tokenizer.decode(second.ids).index(moved) > tokenizer.decode(second.ids).index("b<eos>")
    with pytest.raises(
        RowError, match=r"messages\[[34]\]: asked for this answer, .*data\.turns=auto"
    ):
        documents(tokenizer, row, turns="joined")


@pytest.mark.parametrize(
    ("style", "messages", "row", "message"),
    [
        ("gemma", talk("a", "b", system="s"), {}, "refuses the messages: System role not supp"),
        ("chatml", talk("a", "b"), {"tools": TOOLS}, "tools: the chat template leaves them out"),
        (
            "chatml",
            agent({}),
            {},
            r"messages\[1\]: the chat template leaves out the call of 'lo",
        ),
        (
            "qwen",
            [*talk("a", "b"), {"role": "system", "content": "late"}, *talk("c", "d")],
            {},
            r"messages\[2\] \(system\): the chat template leaves it out; write it into the first",
        ),
    ],
)
def test_nothing_is_left_out_in_silence(tokenizers, style, messages, row, message):
    with pytest.raises(RowError, match=message):
        encode(tokenizers[style], messages, **row)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_is_found_by_any_of_its_names(tokenizers, name):
    messages = talk("a", "b")
    messages[1][name] = "Hm."
    learnt = texts(tokenizers["thinking"], encode(tokenizers["thinking"], messages))
    assert learnt == ["<think>\nHm.\n</think>\n\nb<|im_end|>"]
