"""Which layers and tensors of a model a name or a pattern means."""

import pytest

from pipeline.model.network.targets import chosen_layers, linear_layers

NAMES = [
    "mlp.down_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "self_attn.k_proj",
    "self_attn.o_proj",
    "self_attn.q_proj",
    "self_attn.v_proj",
]


def test_the_linear_layers_of_a_block_have_names(tiny_model):
    assert linear_layers(tiny_model.layers[0]) == NAMES


@pytest.mark.parametrize(
    ("targets", "chosen"),
    [
        (("*",), NAMES),
        (("q_proj",), ["self_attn.q_proj"]),
        (("self_attn.*",), NAMES[3:]),
        (("mlp.up_proj", "up_proj"), ["mlp.up_proj"]),
        (("[kv]_proj",), ["self_attn.k_proj", "self_attn.v_proj"]),
    ],
)
def test_targets_are_names_or_patterns(targets, chosen):
    assert chosen_layers(NAMES, [], targets) == chosen


@pytest.mark.parametrize("target", ["embed_tokens", "model.embed_tokens", "embed*"])
def test_every_linear_layer_is_neither_embedding_nor_head(tiny_model, target):
    assert chosen_layers(NAMES, ["model.embed_tokens", "lm_head"], ("*",)) == NAMES
    assert chosen_layers(NAMES, ["model.embed_tokens"], (target,)) == ["model.embed_tokens"]
