"""Rows for preparation, its settings, and what it writes read back."""

import json
import shutil

import numpy as np

from pipeline.data.settings import PrepareSettings
from pipeline.data.store import TokenStore
from pipeline.data.tokenize.tokenizer import load_tokenizer

WORDS = ("a", "the", "cat", "dog", "mat", "hat", "rat", "sat", "on", "saw", "ran", "and", "to")
SETTINGS = PrepareSettings(
    seed=7,
    source="jsonl",
    path=None,
    subset=None,
    split="train",
    max_seq_len=64,
    long_documents="truncate",
    overlap_tokens=0,
    train_on="all",
    max_bad_rows=0,
    max_line_bytes=4096,
    validation_fraction=0.2,
    test_fraction=0.1,
    tokenizer_source=None,
    vocab_size=300,
    num_documents=80,
    num_pretrain_documents=40,
    num_contests=4,
)
CHATML = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def with_template(model, folder):
    """Copy a tokenizer, and give it a chat template."""
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def sentences(count, seed=0, shortest=3, longest=12):
    generator = np.random.default_rng(seed)
    return [
        " ".join(generator.choice(WORDS, generator.integers(shortest, longest + 1))) + f" {number}."
        for number in range(count)
    ]


def texts(*lines):
    return [{"text": line} for line in lines]


def write_rows(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def documents(folder, split):
    """Read the texts of a split back."""
    tokenizer, store = load_tokenizer(folder / "tokenizer"), TokenStore(folder / split)
    return [tokenizer.decode(store.tokens(i), skip_special_tokens=True) for i in range(len(store))]


def contents(folder):
    """Read every byte under a folder."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
