"""The files of a tokenizer: copied as they are, and hashed with and without their templates."""

import json
import shutil

import pytest

from pipeline.data.tokenize.tokenizer import load_tokenizer, train_tokenizer
from pipeline.external.tokenizer_files import copy_tokenizer, tokenizer_hash, vocabulary_hash

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tokenizer"
    train_tokenizer(iter(["the cat sat on the mat"] * 9), 300, folder)
    return folder


def test_a_copy_is_byte_for_byte_and_nothing_else(folder, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    (source / "chat_template.jinja").write_text(TEMPLATE)
    (source / "model.safetensors").write_bytes(b"weights")
    (source / "tokenizer.py").write_text("raise SystemExit")
    copy_tokenizer(source, tmp_path / "copy")
    names = {file.name for file in (tmp_path / "copy").iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (source / name).read_bytes()
    assert tokenizer_hash(tmp_path / "copy") == tokenizer_hash(source) != tokenizer_hash(folder)
    assert load_tokenizer(tmp_path / "copy").chat_template == TEMPLATE


def test_templates_by_name_are_copied_hashed_and_used(folder, tmp_path):
    source, more = tmp_path / "source", "additional_chat_templates"
    shutil.copytree(folder, source)
    tokenizer = load_tokenizer(source)
    tokenizer.chat_template = {"default": TEMPLATE, "tool_use": "tools: {{ tools }}"}
    tokenizer.save_pretrained(source)
    assert [path.name for path in (source / more).iterdir()] == ["tool_use.jinja"]
    copy_tokenizer(source, tmp_path / "copy")
    copied = load_tokenizer(tmp_path / "copy")
    assert copied.get_chat_template(tools=[{"name": "f"}]) == "tools: {{ tools }}"
    assert copied.get_chat_template() == TEMPLATE
    before, vocabulary = tokenizer_hash(source), vocabulary_hash(source)
    assert before == tokenizer_hash(tmp_path / "copy")
    (source / more / "tool_use.jinja").write_text("other")
    assert tokenizer_hash(source) != before
    assert vocabulary_hash(source) == vocabulary  # templates decide no id


def test_the_hash_of_the_vocabulary_is_that_of_all_but_the_templates(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "chat_template.jinja").write_text(TEMPLATE)
    assert vocabulary_hash(copy) == vocabulary_hash(folder)
    assert tokenizer_hash(copy) != tokenizer_hash(folder)
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": "x"}))
    assert vocabulary_hash(copy) == vocabulary_hash(folder)
    (copy / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "x"}))
    assert vocabulary_hash(copy) != vocabulary_hash(folder)
