"""Rotary embeddings are those of transformers, whichever way config.json scales them."""

import math

import numpy as np
import pytest

from pipeline.device import mx
from pipeline.model.network.build import build
from pipeline.model.network.rotation import short_wavelengths, unrounded_wavelengths
from pipeline.model.source.spelling import respelled

POSITIONS, HEAD = 4096, 64
YARN = {"rope_type": "yarn", "factor": 32.0, "rope_theta": 150_000.0}
FROM_512 = {"original_max_position_embeddings": 512}
PAIRS = HEAD // 2
SCALINGS = {
    "default": {"rope_type": "default", "rope_theta": 5e4},
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    "llama3": {
        **{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, **FROM_512},
        **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    },
    "longrope": {
        **{"rope_type": "longrope", "rope_theta": 1e4, **FROM_512},
        "short_factor": np.linspace(1, 2, PAIRS).tolist(),
        "long_factor": np.linspace(1, 40, PAIRS).tolist(),
    },
    "yarn": YARN | FROM_512,
    "yarn, from all positions": YARN,
    "yarn, not widened": YARN | FROM_512 | {"truncate": False},
    "yarn, of deepseek": YARN | FROM_512 | {"mscale": 0.7, "mscale_all_dim": 0.5},
    "yarn, narrow": YARN | FROM_512 | {"truncate": False, "beta_fast": 8.0, "beta_slow": 4.0},
}


def described(tiny_config, scaling, **changes):
    """Return a config.json as transformers 5 writes it."""
    size = {"hidden_size": 4 * HEAD, "head_dim": HEAD, "max_position_embeddings": POSITIONS}
    config = {**tiny_config, **size, **changes, "rope_parameters": scaling}
    del config["rope_theta"]
    return config


def turned(config, tokens):
    """Turn a vector of ones by each position, [tokens, head]."""
    rope = build(respelled(config)).layers[0].self_attn.rope
    return np.array(rope(mx.ones((1, 1, tokens, HEAD))))[0, 0]


@pytest.mark.real
@pytest.mark.parametrize("name", SCALINGS)
def test_positions_are_turned_as_by_transformers(tiny_config, readers, name):
    torch, transformers = readers("torch"), readers("transformers")
    kind = "phi3" if name == "longrope" else "llama"
    config = described(tiny_config, SCALINGS[name], model_type=kind, **FROM_512)
    if name == "yarn, from all positions":
        del config["original_max_position_embeddings"]
    theirs = transformers.AutoModel.from_config(
        transformers.CONFIG_MAPPING[kind].from_dict({**config, "pad_token_id": 0})
    )
    places = torch.arange(512)[None]
    cosine, sine = (part[0].numpy() for part in theirs.rotary_emb(torch.ones(1), places))
    signs = np.repeat([-1, 1], PAIRS)
    np.testing.assert_allclose(turned(config, 512), cosine + signs * sine, atol=2e-3)


def test_a_ramp_that_is_not_widened_begins_and_ends_between_pairs(tiny_config):
    scaling = SCALINGS["yarn, narrow"]
    config = respelled(described(tiny_config, scaling))
    plain = 150_000.0 ** (np.arange(0, HEAD, 2) / HEAD)
    found = np.array(unrounded_wavelengths(config, HEAD))
    turns = 512 / (2 * math.pi * plain)  # of each pair, in the text before scaling
    np.testing.assert_allclose(found[turns > 8], plain[turns > 8], rtol=1e-5)
    np.testing.assert_allclose(found[turns < 4], 32 * plain[turns < 4], rtol=1e-5)
    between = (turns < 8) & (turns > 4)
    share = (np.log(8 / turns) / np.log(8 / 4))[between]  # linear in pairs
    expected = 1 / (share / (32 * plain[between]) + (1 - share) / plain[between])
    assert between.any()
    np.testing.assert_allclose(found[between], expected, rtol=1e-4)


@pytest.mark.parametrize("truncate", [True, False])
def test_only_a_ramp_that_is_not_to_be_widened_is_replaced(tiny_config, truncate):
    config = described(tiny_config, YARN | FROM_512 | {"truncate": truncate})
    other = described(tiny_config, YARN | FROM_512)
    assert np.array_equal(turned(config, 64), turned(other, 64)) is truncate


def test_short_texts_have_the_short_factors(tiny_config):
    config = respelled(described(tiny_config, SCALINGS["longrope"]))
    expected = 1e4 ** (np.arange(0, HEAD, 2) / HEAD) * np.linspace(1, 2, PAIRS)
    np.testing.assert_allclose(np.array(short_wavelengths(config, HEAD)), expected, rtol=1e-5)
