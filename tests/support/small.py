"""Small parts that tests build models and data of."""

from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
TINY_SHAPE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def random_documents(count, seed=0, shortest=4, longest=24):
    """Make token ids and target masks; a third of the documents has a prompt."""
    generator = np.random.default_rng(seed)
    for index in range(count):
        length = int(generator.integers(shortest, longest + 1))
        ids = generator.integers(3, 64, length).astype(np.int32)
        mask = np.arange(length) >= (length // 3 if index % 3 == 0 else 1)
        mask[0] = False
        yield ids, mask
