"""A key that changes the model and is not read is refused by name; any other one is not."""

import pytest

from pipeline.errors import ModelError
from pipeline.files import read_json, write_json
from pipeline.model.network.build import build
from pipeline.model.source.check import check_weights
from pipeline.model.source.folder import read_config
from pipeline.model.source.spelling import respelled
from pipeline.model.source.unread import check_all_read, unread_keys
from tests.model.test_body_and_head import CONFIGS

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
GEMMA = {"model_type": "gemma", "head_dim": 4}
GEMMA2 = {"model_type": "gemma2", "head_dim": 4, "query_pre_attn_scalar": 4}
GEMMA3 = {"model_type": "gemma3_text", "head_dim": 4, "sliding_window_pattern": 2}
NEOX = {"model_type": "gpt_neox", "hidden_size": 32, "layer_norm_eps": 1e-5}
GLM = {"model_type": "glm", "head_dim": 4, "attention_bias": False}
STARCODER2 = {"model_type": "starcoder2", "norm_epsilon": 1e-5}


def unread(tiny_config, changes):
    plain = {name: value for name, value in tiny_config.items() if name != "hidden_act"}
    config = respelled(plain | changes)
    return unread_keys(config, build(config))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"hidden_activation": "relu"}, "hidden_activation='relu'"),
        (GEMMA | {"hidden_act": "silu"}, "hidden_act='silu'"),
        (GLM | {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        (GEMMA3 | {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ({"logit_scale": 0.0625}, "logit_scale=0.0625"),
        ({"residual_multiplier": 0.22}, "residual_multiplier=0.22"),
        ({"clip_qkv": 8.0}, "clip_qkv=8.0"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps=0.001"),
        ({"head_dim": 4, "query_pre_attn_scalar": 8}, "query_pre_attn_scalar=8"),
        (STARCODER2 | {"rope_scaling": YARN}, "rope_scaling={'rope_type': 'yarn',"),
        ({"rope_scaling": {**YARN, "attention_factor": 2.0}}, "rope_scaling.attention_factor=2.0"),
        (
            {"rope_parameters": {"full_attention": YARN, "sliding_attention": YARN}},
            "rope_parameters.sliding_attention.rope_type='yarn'",
        ),
    ],
)
def test_a_key_that_changes_the_model_is_named(tiny_config, changes, named):
    [found] = unread(tiny_config, changes)
    assert found.startswith(named)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_act": "silu", "attn_logit_softcapping": None, "logit_scale": 1.0, "n_group": 1},
        {"layer_norm_eps": 1e-5, "clip_qkv": None, "use_bidirectional_attention": False},
        GEMMA | {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"},
        GEMMA2 | {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0},
        STARCODER2 | {"hidden_act": "gelu_pytorch_tanh", "rope_theta": 5e5},
        {"rope_scaling": {**YARN, "attention_factor": 0.1 * 1.3862943611198906 + 1}},
        {"rope_scaling": {**YARN, "truncate": False}},
        {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 0]}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        NEOX | {"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.25}},
    ],
)
def test_a_key_that_is_read_or_changes_nothing_is_not_named(tiny_config, changes):
    assert unread(tiny_config, changes) == []


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_no_architecture_is_refused_for_its_own_words(tiny_config, change):
    if "text_config" in change:
        text = {**GEMMA3, "hidden_act": None}
        change = change | {"text_config": {**tiny_config, **text}}
    assert unread({} if "vocab_size" in change else tiny_config, change) == []


def test_keys_of_a_language_model_among_several_modalities_count(tiny_config):
    text = {**tiny_config, **GEMMA3, "final_logit_softcapping": 30.0, "hidden_act": "gelu"}
    config = {"model_type": "gemma3", "text_config": text}
    assert unread({}, config) == ["final_logit_softcapping=30.0"]


def test_all_are_named_at_once(tmp_path, tiny_config):
    config = tiny_config | {"logit_scale": 2.0, "hidden_act": "gelu"}
    with pytest.raises(ModelError) as caught:
        check_all_read(tmp_path, config, build(config))
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/config.json: mlx-lm's llama does not read these keys, and computes another "
        "model:",
        "  hidden_act='gelu'",
        "  logit_scale=2.0",
        "Use a model of another architecture, or a version of mlx-lm that reads them.",
    ]


def test_a_base_with_such_a_key_is_refused(model_folder):
    path = model_folder / "config.json"
    write_json(path, read_json(path) | {"hidden_act": "gelu"})
    with pytest.raises(ModelError, match=r"does not read these keys(.*\n) +hidden_act='gelu'\n"):
        check_weights(model_folder, read_config(model_folder))
