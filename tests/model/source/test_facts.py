"""What a config.json may say."""

import pytest

from pipeline.external.shapes import misfits
from pipeline.model.source.facts import SHAPE, fact, with_facts

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
        ("text_config", [[], "gemma3_text"]),
        ("rope_parameters", [[], 1e4]),
        ("rope_scaling", ["linear"]),
        ("use_sliding_window", ["true", 1]),
        ("num_experts_per_tok", ["2", -1]),
        ("sliding_window", ["16", -1]),
        ("layer_types", [[1], "full_attention"]),
        ("num_local_experts", [1_000_000, "8"]),
    ],
)
def test_values_that_cannot_be(name, values):
    for value in values:
        [problem] = misfits({name: value}, SHAPE)
        assert problem.startswith((f"{name}: is ", f"{name}[0]: is "))
        assert "; must be " in problem
        [nested] = misfits({"text_config": {name: value}}, SHAPE) if name != "text_config" else [""]
        assert nested in ("", f"text_config.{problem}")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rope_parameters": None, "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "sliding_window": 0},
        {"rope_parameters": {"sliding_attention": None, "full_attention": {"factor": 8}}},
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("factor", "two"),
        ("attention_factor", "1.0"),
        ("beta_fast", 0),
        ("beta_slow", NAN),
        ("truncate", 1),
        ("rope_theta", 0),
        ("original_max_position_embeddings", 8.5),
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_facts_of_rotary_embeddings_that_cannot_be(key, name, value):
    [problem] = misfits({key: {name: value}}, SHAPE)
    assert problem.startswith(f"{key}.{name}: is ")


def test_the_first_fact_that_is_there():
    assert fact({"a": None, "b": 0, "c": 3}, "a", "b", "c") == 0
    assert fact({"a": None}, "a", "b") is None


def test_facts_of_the_language_model_go_before_those_outside_of_it():
    config = {"a": 1, "b": 2, "text_config": {"a": 3, "b": None}}
    assert [fact(config, name) for name in ("a", "b", "c")] == [3, 2, None]
    assert fact({"a": 1, "text_config": None}, "a") == 1
    assert fact(config, "b", "a") == 2


def test_a_fact_is_replaced_wherever_it_stands():
    config = {"a": 1, "text_config": {"a": 2, "b": 3}, "c": 4}
    assert with_facts(config, a=5, b=6, d=7) == {"a": 5, "text_config": {"a": 5, "b": 6}, "c": 4}
    assert config["text_config"] == {"a": 2, "b": 3}
    assert with_facts({"text_config": {"text_config": 1}}, a=5) == {
        "text_config": {"text_config": 1}
    }
