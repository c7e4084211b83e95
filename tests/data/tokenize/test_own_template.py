"""A chat template that replaces the model's own, and its variables with other defaults."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.data.rows.records import Conversation
from pipeline.data.tokenize.own_template import set_template
from pipeline.data.tokenize.template import render
from pipeline.data.tokenize.tokenizer import chat_template_of, load_tokenizer, train_tokenizer
from pipeline.errors import ConfigError, ModelError
from pipeline.external.tokenizer_files import tokenizer_hash
from tests.support.chat_samples import templates

QUESTION = Conversation([{"role": "user", "content": "Why?"}])
SIMPLE = "{% for m in messages %}{{ m.content }}{% endfor %}"
VARIABLE = SIMPLE + "{% macro end() %}{{ tone }}{% endmacro %}{{ end() }}"
VALUES = [
    True,
    None,
    -1.5,
    'a "quoted" \\n line\n, {{ braces }} %} and 日本 \U0001f600',
    [1, None],
    {"a b": [False]},
]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tokenizer"
    train_tokenizer(iter(["the cat sat on the mat"] * 9), 300, folder)
    return folder


def with_file(folder, text):
    """Write a template next to a folder."""
    file = folder.parent / "given.jinja"
    file.write_text(text, encoding="utf-8")
    return file


def asked(folder):
    """Return what the model is given when it is asked."""
    return render(chat_template_of(load_tokenizer(folder)), QUESTION, ask=True)


def test_a_file_replaces_every_template_that_the_tokenizer_has(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    old = [{"name": "default", "template": "old"}, {"name": "tool_use", "template": "older"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": old}))
    (folder / "chat_template.json").write_text('{"chat_template": "oldest"}')
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/rag.jinja").write_text("other")
    set_template(folder, with_file(folder, SIMPLE), {})
    assert load_tokenizer(folder).chat_template == SIMPLE
    assert asked(folder) == "Why?"
    assert "old" not in (folder / "tokenizer_config.json").read_text()
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_without_a_choice_no_byte_changes(folder):
    (folder / "chat_template.jinja").write_text(SIMPLE)
    before = tokenizer_hash(folder)
    set_template(folder, None, {})
    assert tokenizer_hash(folder) == before


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_variable_has_its_value_wherever_it_is_read_unless_it_is_given(folder, value):
    set_template(folder, with_file(folder, VARIABLE), {"tone": value})
    tokenizer = load_tokenizer(folder)
    given = tokenizer.apply_chat_template(QUESTION.messages, tokenize=False, tone="low")
    assert asked(folder) == f"Why?{value}"
    assert given == "Why?low"


def test_each_named_template_gets_the_value(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = {"default": VARIABLE, "tool_use": f"tools {VARIABLE}"}
    tokenizer.save_pretrained(folder)
    set_template(folder, None, {"tone": "!"})
    tools = [{"type": "function", "function": {"name": "look"}}]
    assert asked(folder) == "Why?!"
    conversation = replace(QUESTION, tools=tools)
    assert render(chat_template_of(load_tokenizer(folder)), conversation).strip() == "tools Why?!"


def test_thinking_is_turned_off_as_a_server_does_it(folder, samples):
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = templates(samples)["qwen3"]
    tokenizer.save_pretrained(folder)
    wanted = tokenizer.apply_chat_template(
        QUESTION.messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert asked(folder) != wanted
    set_template(folder, None, {"enable_thinking": False})
    assert asked(folder) == wanted


def test_a_template_with_marks_of_answers_may_be_given_variables(folder):
    marked = "{% generation %}{{ tone }}{%- endgeneration -%}"
    set_template(folder, with_file(folder, marked), {"tone": "soft"})
    assert asked(folder) == "soft"


def test_names_that_no_template_reads_are_refused_together(folder):
    with pytest.raises(ConfigError) as raised:
        set_template(folder, with_file(folder, VARIABLE), {"tune": 1, "messages": 2, "tone": 3})
    assert str(raised.value) == (
        "data.template_kwargs has names that cannot be used:\n"
        "  tune: the template reads no such variable\n"
        "  messages: it is given with each row, or by the library\n"
        "The chat template of this model reads tone."
    )


def test_what_cannot_be_read_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"has no chat template.\nSet it to \{\}, or give"):
        set_template(folder, None, {"tone": 1})
    with pytest.raises(ConfigError, match=r"the chat template cannot be read \(.*\).\nMend it"):
        set_template(folder, with_file(folder, "{% for %}"), {"tone": 1})
    with pytest.raises(ConfigError, match=r"data.chat_template=.*gone: cannot be read .*\nGive a"):
        set_template(folder, tmp_path / "gone", {})
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"^the_model: the tokenizer cannot be read"):
        set_template(folder, None, {"tone": 1}, Path("the_model"))
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(ConfigError, match=r"cannot be read \('utf-8' codec"):
        set_template(folder, tmp_path / "latin", {})
