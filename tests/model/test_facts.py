"""What a config.json may say."""

import pytest

from pipeline.external.shapes import misfits
from pipeline.model.facts import SHAPE, fact

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("model_type", [3, ["llama"]]),
        ("vocab_size", ["64", [64], NAN, 0, -1, 64.0, 1 << 40, True]),
        ("hidden_size", ["sixteen", -16, 0]),
        ("num_hidden_layers", [1_000_000, 0, "2", 2.5]),
        ("num_attention_heads", [0, "4", [4, "4"]]),
        ("num_key_value_heads", [-1, "4"]),
        ("max_position_embeddings", ["2048", 512.5, 0, NAN]),
        ("n_positions", ["2048"]),
        ("rope_theta", ["10000", 0, -1, NAN, float("inf")]),
        ("rms_norm_eps", ["1e-5", NAN, 0, 1, -1e-5]),
        ("layer_norm_eps", [NAN]),
        ("partial_rotary_factor", [0, 1.5, "0.5"]),
        ("tie_word_embeddings", ["true", 1]),
        ("torch_dtype", [16]),
        ("quantization", ["4bit", 4]),
        ("text_config", [[]]),
        ("num_local_experts", [1_000_000, "8"]),
    ],
)
def test_values_that_cannot_be(name, values):
    for value in values:
        [problem] = misfits({name: value}, SHAPE)
        assert problem.startswith(f"{name}: is ")
        assert "; must be " in problem


@pytest.mark.parametrize(
    "config",
    [
        {},
        dict.fromkeys(SHAPE),
        {"num_key_value_heads": [4, 0, 8], "intermediate_size": [64, 128]},
        {"rope_theta": 10_000, "rms_norm_eps": 1e-6, "partial_rotary_factor": 1},
        {"vocab_size": 256_000, "max_position_embeddings": 10_485_760},
        {"torch_dtype": "bfloat16", "quantization": {"bits": 4}, "text_config": {"a": 1}},
        {"num_experts": 512, "num_local_experts": 0},
    ],
)
def test_values_that_models_have(config):
    assert list(misfits(config, SHAPE)) == []


def test_the_first_fact_that_is_there():
    assert fact({"a": None, "b": 0, "c": 3}, "a", "b", "c") == 0
    assert fact({"a": None}, "a", "b") is None
