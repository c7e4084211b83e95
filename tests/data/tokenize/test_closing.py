"""An answer ends with the token that closes it: the template's own, or the end of sequence."""

import pytest

from pipeline.data.rows.fields import RowError
from pipeline.data.tokenize.closing import closing_of
from pipeline.data.tokenize.tokenizer import chat_template_of
from tests.data.tokenize.test_turn_ids import tokenizer_of
from tests.support.chat_samples import ROWS, answer, calling, templates, user
from tests.support.chat_templates import CHATML
from tests.support.conversations import documents, texts

HEADER = r"<|start_header_id|>assistant<|end_header_id|>\n\n"
ALWAYS_ASKS = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}{{ '" + HEADER + "' }}"
)
OPEN = (
    "{% for m in messages %}<|user|>{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{{ ending }}{% endfor %}"
    "{% endfor %}"
)
NEXT_ROLE = "<|user|>"
"""With this the twin of a template without a closing token ends an answer."""
DEEPSEEK = "deepseekv3"
"""Its prompts open a thought that its training twin does not write."""


@pytest.fixture
def tokenizer():
    return tokenizer_of("Llama 3")


@pytest.mark.parametrize(
    ("name", "text", "token"),
    [
        ("qwen3", "<|im_end|>\n", "<|im_end|>"),
        ("phi3_5", "<|end|>\n</s>", "<|end|>"),
        ("gemma3", "<end_of_turn>\n", "<end_of_turn>"),
        ("llama3", "<|eot_id|>", "<|eot_id|>"),
        ("glm4moe", "", ""),
    ],
)
def test_what_two_answers_that_are_not_alike_both_end_with(samples, tokenizer, name, text, token):
    tokenizer.chat_template = templates(samples)[name]
    closing = closing_of(chat_template_of(tokenizer))
    assert (closing.text, closing.token) == (text, token)


def test_a_template_that_needs_a_system_prompt_or_cannot_be_asked(tokenizer):
    tokenizer.chat_template = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    )
    assert closing_of(chat_template_of(tokenizer)).token == "<|im_end|>"
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert closing_of(chat_template_of(tokenizer)).text == ""


def test_a_header_that_is_always_written_is_not_learnt(tokenizer):
    tokenizer.chat_template = ALWAYS_ASKS
    (document,) = documents(tokenizer, ROWS["two turns"])
    assert texts(tokenizer, document) == ["ANS1<|eot_id|>", "ANS2<|eot_id|>"]


@pytest.mark.parametrize("content", ["ANS1", "<|im_end|> ANS1", "ANS1 <|im_end|>", "<think>"])
def test_an_answer_without_a_closing_gets_the_end_of_sequence(tokenizer, content):
    tokenizer.chat_template = OPEN
    row = {"messages": [user("Q1"), answer(content)]}
    ids = documents(tokenizer, row)[0].ids
    assert ids[-1] == tokenizer.eos_token_id
    assert (ids == tokenizer.eos_token_id).sum() == 1
    row["messages"][1]["content"] += "</s>"
    assert (documents(tokenizer, row)[0].ids == tokenizer.eos_token_id).sum() == 1


@pytest.mark.parametrize(
    ("ending", "last"), [("<|eot_id|>\n", "<|eot_id|>"), ("</tool_call>", "</s>"), ("", "</s>")]
)
def test_a_call_that_ends_in_a_control_token_is_closed_by_it(tokenizer, ending, last):
    tokenizer.chat_template = f"{{% set ending = '{ending}' %}}" + OPEN
    document = documents(tokenizer, {"messages": [user("Q1"), calling({"at": "x"})]})[0]
    assert tokenizer.convert_ids_to_tokens(document.ids[-1:]) == [last]


@pytest.mark.parametrize("row", [row for row in ROWS if row != "a call as a string"])
def test_learnt_text_is_what_training_twins_mark(samples, tokenizer, row):
    """They also mark what follows the closing token, and what their prompt leaves to the model."""
    seen = 0
    for name, template in templates(samples).items():
        file = samples / f"templates/{name}_training.jinja"
        if name == DEEPSEEK or not file.is_file():
            continue
        tokenizer.chat_template = template
        try:
            ours = documents(tokenizer, ROWS[row])[-1]
        except RowError:
            continue
        marked = marked_text(tokenizer, file.read_text(), ROWS[row])
        text = texts(tokenizer, ours)[-1]
        text = (
            text
            if closing_of(chat_template_of(tokenizer)).token
            else text.removesuffix("</s>").rstrip()
        )
        before, found, after = marked.rpartition(text)
        assert found, (name, marked, text)
        assert after.strip() in ("", "</s>", NEXT_ROLE), name
        assert tokenizer.decode(ours.ids).rpartition(text)[0].endswith(before), name
        seen += 1
    assert seen >= 1


def marked_text(tokenizer, template, row):
    """Return what a training template marks last."""
    messages = [
        {**message, "reasoning_content": message["thinking"]} if "thinking" in message else message
        for message in row["messages"]
    ]
    found = tokenizer.apply_chat_template(
        messages,
        tools=row.get("tools"),
        chat_template=template,
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    ids, mask = found["input_ids"], found["assistant_masks"]
    end = len(mask) - mask[::-1].index(1)
    start = end - [*mask[:end][::-1], 0].index(0)
    return tokenizer.decode(ids[start:end])
