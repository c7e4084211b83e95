"""A config.json in the words of transformers 5 builds the model that it describes."""

import pytest

from pipeline.device import mx
from pipeline.model.network.build import build
from pipeline.model.source.spelling import full_layer_distance, respelled

TOKENS = mx.arange(3, 63)[None]
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 5e4,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 5e5,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.0],
    "long_factor": [2.0, 4.0],
    "original_max_position_embeddings": 32,
}


def words(parameters, **others):
    """Return what is added to the words of a file that has only `rope_parameters`."""
    config = {"model_type": "llama", **others, "rope_parameters": parameters}
    found = respelled(config)
    assert found.items() >= config.items()
    return {name: value for name, value in found.items() if name not in config}


def both_types(scaling):
    return {**scaling, "type": scaling["rope_type"]}


def test_the_base_of_the_rotation_is_found():
    plain = {"rope_type": "default", "rope_theta": 5e4}
    assert words(plain) == {"rope_theta": 5e4, "rope_scaling": None}
    part = {**plain, "partial_rotary_factor": 0.5}
    assert words(part)["partial_rotary_factor"] == 0.5


@pytest.mark.parametrize("scaling", [YARN, LLAMA3])
def test_a_scaled_rotation_is_found(scaling):
    found = words(scaling)
    assert found == {"rope_theta": scaling["rope_theta"], "rope_scaling": both_types(scaling)}


def test_the_positions_before_a_long_rotation_stand_alone_too():
    assert words(LONG)["original_max_position_embeddings"] == 32
    assert "original_max_position_embeddings" not in words(LONG, original_max_position_embeddings=8)


def test_a_rotation_is_scaled_from_all_positions_where_no_others_are_named():
    yarn = {"rope_type": "yarn", "factor": 4.0}
    for config in ({"rope_scaling": yarn}, {"rope_parameters": yarn}):
        for before in ({}, {"original_max_position_embeddings": 8}):
            found = respelled(config | {"max_position_embeddings": 64} | before)
            expected = 8 if before else 64
            assert found["rope_scaling"]["original_max_position_embeddings"] == expected


def test_layers_of_two_kinds_have_two_bases():
    plain = {"rope_type": "default"}
    parameters = {
        "full_attention": {**YARN, "rope_theta": 1e6},
        "sliding_attention": {**plain, "rope_theta": 1e4},
    }
    assert words(parameters) == {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": both_types({**YARN, "rope_theta": 1e6}),
    }


def test_rope_parameters_go_before_single_words_and_rope_scaling_before_both():
    config = {"rope_theta": 1.0, "rope_parameters": {"rope_type": "default", "rope_theta": 2.0}}
    assert respelled(config)["rope_theta"] == 2.0
    linear = {"rope_type": "linear", "factor": 2.0}
    assert respelled(config | {"rope_scaling": linear})["rope_scaling"] == both_types(linear)


@pytest.mark.parametrize("config", [{"model_type": "llama", "rope_theta": 5e4}, {"a": 1}])
def test_older_words_stay_as_they_are(config):
    assert respelled(config) == config
    assert respelled(config | {"rope_scaling": None}) == config | {"rope_scaling": None}


def test_either_name_of_the_type_of_scaling_is_understood():
    for name in ("type", "rope_type"):
        found = respelled({"rope_scaling": {name: "linear", "factor": 2.0}})
        assert found["rope_scaling"] == {"type": "linear", "rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("config", "added"),
    [
        ({"model_type": "qwen3_moe", "num_local_experts": 4}, {"num_experts": 4}),
        ({"model_type": "lfm2", "hidden_size": 8}, {"block_dim": 8}),
        (
            {"model_type": "gpt_neox", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
            {"rotary_emb_base": 1e4, "rotary_pct": 0.25},
        ),
        (
            {"model_type": "cohere2", "layer_types": ["sliding_attention", "full_attention"] * 2},
            {"sliding_window_pattern": 2},
        ),
    ],
)
def test_other_words_for_the_same_fact(config, added):
    assert respelled(config) == config | added


@pytest.mark.parametrize(
    ("types", "distance"), [("sssf", 4), ("sssfs", 4), ("ff", 1), ("sfff", None), ("ss", None)]
)
def test_the_distance_of_layers_with_full_attention(types, distance):
    names = {"s": "sliding_attention", "f": "full_attention"}
    config = {"layer_types": [names[each] for each in types]}
    assert full_layer_distance(config) == distance


def test_facts_of_a_language_model_among_several_modalities():
    text = {"model_type": "gemma3_text", "vocab_size": 64}
    text["rope_parameters"] = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}
    config = {"model_type": "gemma3", "tie_word_embeddings": True, "text_config": text}
    found = respelled(config)
    assert found["vocab_size"] == 64
    assert found["text_config"]["rope_theta"] == 1e6
    assert found["text_config"]["tie_word_embeddings"] is True
    assert "rope_theta" not in config["text_config"]


@pytest.mark.parametrize("parameters", [{"rope_type": "default", "rope_theta": 5e4}, YARN, LLAMA3])
@pytest.mark.parametrize("kind", ["llama", "mistral", "olmo2", "smollm3"])
def test_the_logits_are_those_of_the_older_words(tiny_config, kind, parameters):
    older = {**tiny_config, "model_type": kind}
    theta = older.pop("rope_theta")
    newer = older | {"rope_parameters": parameters}
    scaling = None if parameters["rope_type"] == "default" else parameters
    older |= {"rope_theta": parameters["rope_theta"], "rope_scaling": scaling}
    assert theta != parameters["rope_theta"]
    logits = [computed(config) for config in (older, respelled(newer), newer)]
    assert mx.array_equal(logits[0], logits[1])
    assert not mx.allclose(logits[0], logits[2], atol=1e-3)  # as mlx-lm reads it alone


def computed(config):
    """Compute logits with the same random weights, whatever the rotation."""
    mx.random.seed(0)
    return build(config)(TOKENS)
