"""How long a text may be, and that windows which are said to be applied are applied."""

import json

import numpy as np
import pytest

from pipeline.device import mx
from pipeline.errors import ConfigError
from pipeline.files import write_json
from pipeline.model.limits import APPLIED, TextLimit, check_positions, text_limit
from pipeline.model.network.build import build, linked, load_lazily
from pipeline.model.network.intercept import intercepted
from pipeline.model.network.tree import blocks, named_arrays
from pipeline.model.source.folder import read_config
from pipeline.model.source.spelling import respelled

WINDOW, LENGTH = 4, 12
SLIDING, FULL = "sliding_attention", "full_attention"
MIXED = [SLIDING, FULL, SLIDING, FULL]
EXPERTS = {"num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1}
OWN = {
    "afmoe": {**EXPERTS, "moe_intermediate_size": 16, "num_shared_experts": 1},
    "exaone4": {"sliding_window_pattern": "LG", "rope_scaling": None},
    "gemma4_text": {
        "hidden_size_per_layer_input": 0,
        "global_head_dim": 8,
        "num_kv_shared_layers": 0,
    },
    "gpt_oss": EXPERTS,
    "ministral3": {
        "rope_parameters": {
            "rope_theta": 1e4,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 16,
        }
    },
    "mixtral": EXPERTS,
    "starcoder2": {"norm_epsilon": 1e-5},
}
"""What an architecture needs beyond what all have."""


def windowed(tiny_config, kind, **changes):
    """Return a config.json of four layers with a window."""
    layers = {"num_hidden_layers": 4, "head_dim": 4, "sliding_window": WINDOW}
    if kind == "gemma3":
        text = windowed(tiny_config, "gemma3_text", **changes)
        return respelled({"model_type": kind, "text_config": text})
    return respelled({**tiny_config, **layers, "model_type": kind, **OWN.get(kind, {}), **changes})


def seen(model):
    """List for each block the positions whose output depends on its input at position 0."""
    found = []

    def answer(call):
        hidden = call.args[0]
        other = mx.concatenate([hidden[:, :1] + 1.5 * hidden[:, 1:2], hidden[:, 1:]], axis=1)
        results = [call.run(hidden), call.run(other)]
        arrays = [each[0] if isinstance(each, tuple) else each for each in results]
        differs = mx.abs(arrays[0] - arrays[1]).max(axis=(0, 2)) > 1e-6
        found.append([place for place, changed in enumerate(differs.tolist()) if changed])
        return results[0]

    with intercepted(blocks(model), answer):
        model(mx.arange(3, 3 + LENGTH)[None])
    return found


@pytest.mark.parametrize("kind", APPLIED)
def test_a_window_that_is_said_to_be_applied_is_applied(tiny_config, kind):
    config = windowed(tiny_config, kind, layer_types=MIXED)
    assert text_limit(config).tokens == config.get("max_position_embeddings", 64)
    inside, everywhere = list(range(WINDOW)), list(range(LENGTH))
    assert seen(build(config)) == [inside, everywhere, inside, everywhere]


NOT_APPLIED = {
    "gemma2": {"query_pre_attn_scalar": 4},
    "mistral": {},
    "mixtral": {},
    "phi3": {},
    "qwen2": {"use_sliding_window": True},
    "qwen3": {"use_sliding_window": True},
    "starcoder2": {},
}


@pytest.mark.parametrize("kind", NOT_APPLIED)
def test_a_window_that_is_not_applied_limits_the_text(tiny_config, kind):
    config = windowed(tiny_config, kind, **NOT_APPLIED[kind])
    words = f"mlx-lm does not apply the sliding_window of {kind}, which is {WINDOW} tokens"
    assert text_limit(config) == TextLimit(WINDOW, words)
    assert seen(build(config)) == [list(range(LENGTH))] * 4


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("qwen2", {}),
        ("qwen3", {"use_sliding_window": False}),
        ("mistral", {"sliding_window": None}),
        ("phi3", {"sliding_window": 0}),
        ("gemma2", {"layer_types": [FULL] * 4}),
        ("llama", {}),
    ],
)
def test_a_window_that_is_off_limits_nothing(tiny_config, kind, changes):
    assert text_limit(windowed(tiny_config, kind, **changes)).tokens == 64


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 8}, 8),
        ({"n_positions": 9}, 9),
        ({"text_config": {"max_position_embeddings": 7}}, 7),
        ({"text_config": {"model_type": "mistral", "sliding_window": 5}, "model_type": "m"}, 5),
        ({}, None),
    ],
)
def test_the_longest_text(config, tokens):
    assert text_limit(config).tokens == tokens


def test_texts_beyond_the_limit_are_refused(model_folder, tiny_config):
    positions = tiny_config["max_position_embeddings"]
    generation = {"prompt_tokens": positions - 1, "generated_tokens": 2}
    check_positions(model_folder, {"sample_tokens": positions, "prompt_tokens": positions})
    where = rf"the model has {positions} positions \(of .*config\.json\); ask for no more"
    with pytest.raises(ConfigError, match=rf"validate\.sample_tokens={positions + 1}: {where}"):
        check_positions(model_folder, {"sample_tokens": positions + 1})
    both = rf"benchmark\.prompt_tokens={positions - 1} and benchmark\.generated_tokens=2: {where}"
    with pytest.raises(ConfigError, match=both):
        check_positions(model_folder, generation)
    write_json(model_folder / "config.json", windowed(tiny_config, "mistral"))
    where = r"mlx-lm does not apply the sliding_window of mistral, which is 4 tokens \(of .*json\)"
    with pytest.raises(ConfigError, match=rf"validate\.sample_tokens=5: {where}; ask for no more"):
        check_positions(model_folder, {"sample_tokens": 5})


# Rotary embeddings that change with the length of the text

SHORT, LONG_FACTOR, BEFORE = [1.0, 1.25], [2.0, 8.0], 32
LONGROPE = {
    "model_type": "phi3",
    "rope_scaling": {
        "rope_type": "longrope",
        "short_factor": SHORT,
        "long_factor": LONG_FACTOR,
    },
    "original_max_position_embeddings": BEFORE,
}


def test_short_texts_are_turned_by_the_short_factors(tmp_path, tiny_config):
    config = respelled(tiny_config | LONGROPE)
    mx.save_safetensors(
        str(tmp_path / "model.safetensors"), named_arrays(build(config).parameters())
    )
    (tmp_path / "config.json").write_text(json.dumps(tiny_config | LONGROPE))
    with linked(read_config(tmp_path), [tmp_path / "model.safetensors"]) as links:
        loaded = load_lazily(links, tmp_path)
    vectors = mx.random.normal((1, 1, BEFORE, 4), key=mx.random.key(0))
    expected = turned(np.array(vectors)[0, 0].astype(np.float64), tiny_config)
    for model in (build(config), loaded):
        found = np.array(model.layers[0].self_attn.rope(vectors))[0, 0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def turned(vectors, config):
    """Turn vectors of four numbers by their positions (arXiv 2402.13753), in float64."""
    share = config["max_position_embeddings"] / BEFORE
    scale = np.sqrt(1 + np.log(share) / np.log(BEFORE))
    rates = 1 / (np.array(SHORT) * config["rope_theta"] ** (np.arange(0, 4, 2) / 4))
    angles = np.arange(len(vectors))[:, None] * rates
    first, second = vectors[:, :2], vectors[:, 2:]
    cosine, sine = np.cos(angles) * scale, np.sin(angles) * scale
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)


def test_texts_are_no_longer_than_the_short_factors_are_for(tiny_config):
    limit = text_limit(respelled(tiny_config | LONGROPE))
    words = f"this model is computed as it is for texts of up to {BEFORE} tokens (longrope)"
    assert limit == TextLimit(BEFORE, words)
