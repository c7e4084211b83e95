"""Files of strangers: whatever they hold, reading one ends soon, in a value or in one message."""

import json
import shutil

import numpy as np
import pytest
from gguf import GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pipeline.data.rows.formats import RowReader
from pipeline.data.sources.dataset_checks import check_card, check_saved
from pipeline.data.sources.jsonl import parse_line
from pipeline.data.tokenize.encode import Encoder
from pipeline.data.tokenize.tokenizer import load_tokenizer, train_tokenizer
from pipeline.external.gguf.header import read_header
from pipeline.model.source.check import check_weights
from pipeline.model.source.folder import INDEX, read_config, read_weight_files
from tests.support.chat_templates import CHATML, CONTROL_TOKENS
from tests.support.conversations import TOOLS, agent, talk
from tests.support.hostile import bounded, damaged, spoilt, written

SEARCH = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FEW, MANY = settings(SEARCH, max_examples=25), settings(SEARCH, max_examples=1000)
ROWS = [
    {"text": "a", "weight": 1, "cluster": "c", "authority_weight": 0.5, "year": 1990},
    {"prompt": "a", "completion": "b"},
    {"messages": talk("a", "b", "c", "d", system="s")},
    {"messages": agent({"at": ["x", {"y": 1}]}), "tools": TOOLS},
    {"instruction": "a", "input": "b", "output": "c", "system": "s", "history": [["a", "b"]]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
]
"""Rows of each shape, which a search changes."""
PIECES = [
    *("{% for m in messages %}", "{% endfor %}", "{% if m %}", "{% endif %}", "{{ m.content }}"),
    *("{{ m.content * 9999 }}", "{{ messages }}", "{{ m.__class__ }}", "{{ m | tojson }}"),
    *("{% for i in range(99999) %}", "{% set x = x + x %}", "{% set x = 'a' * 99999 %}"),
    *("{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ '%099999999d' % 1 }}", "{{ bos_token }}"),
    *("{% macro f() %}", "{% endmacro %}", "{{ f() }}", "{% generation %}", "{% endgeneration %}"),
    *("{{ ''.join(messages) }}", "<|im_start|>", "<|im_end|>", "{%", "{{", "\x1b", "{# ", "}}"),
    *(
        "{{ messages[0].content[99] }}",
        "{% include 'x' %}",
        "{% import 'os' as o %}",
        "{{ [] + 1 }}",
    ),
]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(iter(["the cat sat on the mat"] * 9), 280, folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": CONTROL_TOKENS})
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path, tokenizer_folder, model_folder):
    """A folder with what the searches change: a model, and a tokenizer."""
    shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "model-1.safetensors")
    return tmp_path


# What is read, and what a search changes of it


def read_rows(place, data):
    encoder = Encoder(load_tokenizer(place / "tokenizer"))
    for _ in range(5):
        row = data.draw(st.sampled_from(ROWS))
        read_row(encoder, data.draw(spoilt(row) | damaged(written(row))))


def read_row(encoder, line):
    with bounded():
        record = RowReader("auto", {}, with_metadata=True).record_of(parse_line(line, 1 << 23))
        encoder.encode([record])


def read_configs(place, data):
    config = json.loads((place / "model/config.json").read_bytes())
    read_config_file(place / "model", data.draw(spoilt(config)))
    (place / "model/config.json").write_bytes(written(config))


def read_config_file(folder, content):
    (folder / "config.json").write_bytes(content)
    with bounded():
        config = read_config(folder)
        check_weights(folder, config)


def read_tokenizers(place, data):
    name = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
    content = (place / "tokenizer" / name).read_bytes()
    changed = data.draw(spoilt(json.loads(content)) | damaged(content))
    read_tokenizer(place / "tokenizer", name, changed)
    (place / "tokenizer" / name).write_bytes(content)


def read_tokenizer(folder, name, content):
    (folder / name).write_bytes(content)
    with bounded():
        tokenizer = load_tokenizer(folder)
        for row in ROWS[:3]:
            Encoder(tokenizer).encode([RowReader().record_of(row)])


def read_templates(place, data):
    pieces = data.draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=9))
    read_template(place / "tokenizer", "".join(pieces))


def read_template(folder, text):
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = text
    with bounded():
        Encoder(tokenizer).encode([RowReader().record_of(ROWS[2])])


def read_indices(place, data):
    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "model-1.safetensors"}}
    read_weights(place, INDEX, data.draw(spoilt(index) | damaged(written(index))))


def read_headers(place, data):
    content = (place / "model-1.safetensors").read_bytes()
    header = json.loads(content[8:-8])
    changed = data.draw(spoilt(header))
    whole = len(changed).to_bytes(8, "little") + changed + content[-8:]
    (place / INDEX).unlink(missing_ok=True)
    read_weights(place, "model.safetensors", data.draw(st.just(whole) | damaged(content)))


def read_weights(folder, name, content):
    (folder / name).write_bytes(content)
    with bounded():
        read_weight_files(folder)


def read_gguf_headers(place, data):
    writer = GGUFWriter(place / "whole.gguf", "llama")
    writer.add_context_length(64)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("a", np.ones((2, 2), np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file):
        write()
    writer.write_tensors_to_file()
    writer.close()
    read_gguf(place / "model.gguf", data.draw(damaged((place / "whole.gguf").read_bytes())))


def read_gguf(path, content):
    path.write_bytes(content)
    with bounded():
        read_header(path)


def read_cards(place, data):
    card = {"configs": [{"config_name": "a", "data_files": [{"split": "b", "path": "c"}]}]}
    state = {"_data_files": [{"filename": "a.arrow"}], "_split": "train"}
    (place / "README.md").write_bytes(b"---\n" + data.draw(spoilt(card)) + b"\n---\n")
    (place / "state.json").write_bytes(data.draw(spoilt(state)))
    with bounded():
        check_card("the set", place)
    with bounded():
        check_saved("the set", place)


SEARCHES = {
    "rows": read_rows,
    "config": read_configs,
    "tokenizer": read_tokenizers,
    "template": read_templates,
    "index": read_indices,
    "header": read_headers,
    "GGUF header": read_gguf_headers,
    "card": read_cards,
}


# Known cases


LONG = b'{"messages": [' + b",".join([json.dumps(each).encode() for each in talk("a", "b")] * 50000)
DEEP = b"[" * 100000 + b"]" * 100000
LINES = {
    "100,000 messages": LONG + b"]}",
    "no end": LONG,
    "deep": b'{"text": ' + DEEP + b"}",
    "deep arguments": written({"messages": agent(DEEP.decode())}),
    "deep objects": b'{"messages":' + b'{"a":' * 90000 + b"1" + b"}" * 90000 + b"}",
    "a number without end": b'{"weight": ' + b"9" * 100000 + b', "text": "a"}',
    "too large a number": b'{"text": "a", "year": 1e400}',
    "half a pair": b'{"text": "\\ud800"}',
    "half a pair as a key": b'{"messages": [{"role": "user", "\\udc00": 1}]}',
    "no UTF-8": b'{"text": "\xff\xfe"}',
    "NUL": b"\0" * 5000,
    "many keys": json.dumps(dict.fromkeys(map(str, range(50000)), 1)).encode(),
    "a list as text": b'{"text": [], "weight": 1}',
    "names that are no text": written({"messages": agent({})}).replace(b'"look"', b"[1]"),
    "many calls": written({"messages": [talk("a")[0], {**agent({})[1], "content": "b" * 500000}]}),
}
CONFIGS = {
    "a million layers": b'"num_hidden_layers": 1000000',
    "wide": b'"hidden_size": 16000000',
    "many experts": b'"num_local_experts": 1000000',
    "a deep part": b'"text_config": ' + DEEP,
    "no base": b'"rope_theta": 0',
    "half a pair": b'"architectures": ["\\ud800"]',
}


@pytest.mark.parametrize("name", LINES)
def test_a_known_line(place, name):
    read_row(Encoder(load_tokenizer(place / "tokenizer")), LINES[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_known_config(place, name):
    content = (place / "model/config.json").read_bytes().rstrip().removesuffix(b"}")
    read_config_file(place / "model", content + b", " + CONFIGS[name] + b"}")


@pytest.mark.parametrize("kind", SEARCHES)
@FEW
@given(data=st.data())
def test_whatever_a_file_holds(place, kind, data):
    SEARCHES[kind](place, data)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", SEARCHES)
@MANY
@given(data=st.data())
def test_whatever_a_file_holds_in_a_long_search(place, kind, data):
    SEARCHES[kind](place, data)
