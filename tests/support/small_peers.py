"""A comparison of small models on a few rows."""

import json

import numpy as np

from pipeline.benchmark.peers import compare
from pipeline.config.stage_paths import Paths
from stages.benchmark import peers_of
from stages.params import composed

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
    """Return overrides for models of a few thousand weights."""
    shapes = [
        f"benchmark.peers.{model}.{name}={value}"
        for model in ("model", "large_vocabulary")
        for name, value in SHAPE.items()
    ]
    common = [f"benchmark.peers.rows={rows}", "benchmark.peers.learning_rate=0.03"]
    return ["benchmark=peers", *shapes, *common]


def settings_with(rows, *overrides):
    """Return the settings of conf/, with small models, few steps and one round."""
    few = ["benchmark.num_steps=6", "benchmark.num_runs=1"]
    return peers_of(composed([*small(rows), *few, *overrides]).benchmark)


def set_up(rows, folder, *overrides, part="all_blocks"):
    """Make the material of a comparison, and choose the part that is running."""
    settings = settings_with(rows, *overrides)
    comparison = compare.set_up(settings, 3, folder, Paths(folder / "out"), lambda text: None)
    comparison.part = part
    return comparison
