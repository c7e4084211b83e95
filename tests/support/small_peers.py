"""A comparison of small models on a few rows."""

import json

import numpy as np

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
WORDS = ["select", "from", "table", "where", "column", "value", "equals", "name", "year"]


def texts(count, seed):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 12, count)
    return [" ".join(generator.choice(WORDS, size)) + f" {i}" for i, size in enumerate(lengths)]


def lay_out_rows(folder):
    """Write 24 rows to train on and 8 to score, as `benchmark.peers.rows` names them."""
    for name, count in (("train", 24), ("valid", 8)):
        lines = [json.dumps({"text": text}) + "\n" for text in texts(count, len(name))]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def small(rows):
    """Give overrides for models of a few thousand weights."""
    shapes = [
        f"benchmark.peers.{model}.{name}={value}"
        for model in ("model", "large_vocabulary")
        for name, value in SHAPE.items()
    ]
    common = [f"benchmark.peers.rows={rows}", "benchmark.peers.learning_rate=0.03"]
    return ["benchmark=peers", *shapes, *common]
