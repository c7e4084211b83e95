"""The head alone: which tensors it has, and what becomes of one that it shares."""

import pytest

from pipeline.device import mx, nn
from pipeline.errors import ConfigError
from pipeline.model.network.adapters import apply
from pipeline.model.network.build import build
from pipeline.model.network.head import give_own_head, head_tensors, untied
from pipeline.model.network.tree import named_arrays, trainable_arrays
from pipeline.model.scratch import initialize
from tests.support.modes import settings_of

TOKENS = mx.array([[1, 5, 9, 33, 2, 60], [7, 7, 3, 4, 5, 6]])
GPT2 = {
    "model_type": "gpt2",
    "n_ctx": 64,
    "n_embd": 16,
    "n_head": 2,
    "n_layer": 2,
    "n_positions": 64,
    "layer_norm_epsilon": 1e-5,
    "vocab_size": 64,
}
PHI = {
    "model_type": "phi",
    "max_position_embeddings": 64,
    "vocab_size": 64,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.5,
    "intermediate_size": 32,
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"tie_word_embeddings": True}, ["lm_head.weight", "model.norm.weight"]),
        ({"tie_word_embeddings": False}, ["lm_head.weight", "model.norm.weight"]),
        ({"model_type": "qwen2"}, ["lm_head.weight", "model.norm.weight"]),
        (
            PHI,
            [
                "lm_head.bias",
                "lm_head.weight",
                "model.final_layernorm.bias",
                "model.final_layernorm.weight",
            ],
        ),
    ],
)
def test_norm_and_head_are_found(tiny_config, config, names):
    model = build(config if "hidden_size" in config else {**tiny_config, **config})
    assert apply(model, settings_of("head"), seed=0)["tensors"] == names
    assert sorted(trainable_arrays(model)) == names


@pytest.mark.parametrize("quantised", [False, True])
def test_a_tied_head_becomes_a_copy_and_the_embedding_stays(tiny_config, quantised):
    model = initialize({**tiny_config, "hidden_size": 64, "intermediate_size": 64}, seed=0)
    if quantised:
        nn.quantize(model, group_size=32, bits=8)
    logits, embedding = model(TOKENS), model.model.embed_tokens(TOKENS)
    mx.eval(logits, embedding)
    assert give_own_head(model)
    assert float(mx.abs(model(TOKENS) - logits).max()) < 1e-5
    model.lm_head.weight = model.lm_head.weight * 2
    assert float(mx.abs(model(TOKENS) - 2 * logits).max()) < 1e-4
    assert mx.array_equal(model.model.embed_tokens(TOKENS), embedding)
    assert not give_own_head(model)  # it has one now


def test_a_quantised_head_becomes_a_plain_one(tiny_config):
    config = {**tiny_config, "hidden_size": 64, "tie_word_embeddings": False}
    model = initialize(config, seed=0)
    nn.quantize(model, group_size=32, bits=8, class_predicate=lambda name, _: name == "lm_head")
    logits = model(TOKENS)
    mx.eval(logits)
    assert give_own_head(model)
    assert type(model.lm_head) is nn.Linear
    assert float(mx.abs(model(TOKENS) - logits).max()) < 1e-5


def test_a_plain_head_stays_as_it_is(tiny_config):
    model = initialize({**tiny_config, "tie_word_embeddings": False}, seed=0)
    names = named_arrays(model.parameters()).keys()
    assert not give_own_head(model)
    assert named_arrays(model.parameters()).keys() == names


def test_a_head_that_no_architecture_unties(tiny_config):
    model = build(
        {**tiny_config, "model_type": "gemma2", "head_dim": 4, "query_pre_attn_scalar": 4}
    )
    model.args.tie_word_embeddings = True
    with pytest.raises(ConfigError, match=r"gemma2 has no form whose head is not the embedding"):
        give_own_head(model)


def test_a_head_that_cannot_be_told():
    message = (
        r"train\.mode=head: final norm and output head cannot be told by their names\. Outside of "
        r"blocks the model has .*model\.wte\.weight.*\nName what is to be trained: train\.mode="
    )
    with pytest.raises(ConfigError, match=message):
        head_tensors(build(GPT2))


def test_the_config_of_an_untied_model():
    assert untied({"a": 1}) == untied({"a": 1, "tie_word_embeddings": True})
    assert untied({"a": 1}) == {"a": 1, "tie_word_embeddings": False}
    nested = untied({"text_config": {"tie_word_embeddings": True}})
    assert nested == {"text_config": {"tie_word_embeddings": False}, "tie_word_embeddings": False}
