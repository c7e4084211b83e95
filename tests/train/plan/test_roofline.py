"""What a step takes by closed formulas: at least so much memory, and so many operations."""

import dataclasses

import pytest

from pipeline.device import nn
from pipeline.model.network.adapters import AdapterSettings, apply
from pipeline.model.scratch import initialize
from pipeline.train.plan.roofline import matrix_passes, most_heads, shape_of


def by_formula(config, tied):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    block = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inner
    return config["num_hidden_layers"] * block + hidden * config["vocab_size"]


def shape_after(model, config, mode="lora", **changes):
    settings = AdapterSettings(mode, 2, 4.0, 0.0, None, ("*",))
    settings = dataclasses.replace(settings, **changes)
    apply(model, settings, seed=0)
    return shape_of(model, config, settings.trains_matrices)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("mode", "passes"), [("lora", 2), ("dora", 2), ("full", 3)])
def test_operations_by_formula(tiny_config, tied, mode, passes):
    config = {**tiny_config, "tie_word_embeddings": tied}
    shape = shape_after(initialize(config, seed=0), config, mode)
    assert matrix_passes(shape) == passes * by_formula(config, tied)


@pytest.mark.parametrize("tied", [True, False])
def test_only_the_head_is_differentiated_where_it_alone_is_trained(tiny_config, tied):
    config = {**tiny_config, "tie_word_embeddings": tied}
    head = config["hidden_size"] * config["vocab_size"]
    shape = shape_after(initialize(config, seed=0), config, "head")
    assert matrix_passes(shape) == by_formula(config, tied) + 2 * head


def test_no_block_before_the_first_trained_one_is_differentiated(tiny_config):
    model = initialize(tiny_config, seed=0)
    head = tiny_config["hidden_size"] * tiny_config["vocab_size"]
    block = (by_formula(tiny_config, tied=True) - head) // tiny_config["num_hidden_layers"]
    shape = shape_after(model, tiny_config, num_layers=1)
    assert matrix_passes(shape) == by_formula(tiny_config, tied=True) + block + head
    shape = shape_after(initialize(tiny_config, seed=0), tiny_config, targets=("embed_tokens",))
    assert matrix_passes(shape) == 2 * by_formula(tiny_config, tied=True)


def test_quantisation_does_not_change_the_bound(tiny_config):
    config = {**tiny_config, "hidden_size": 64, "intermediate_size": 64}
    model = initialize(config, seed=0)
    nn.quantize(model, group_size=32, bits=4, class_predicate=lambda name, module: "proj" in name)
    assert matrix_passes(shape_after(model, config)) == 2 * by_formula(config, tied=True)


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ({"num_attention_heads": 4}, 4),
        ({"num_attention_heads": [2, 8, 4]}, 8),
        ({"text_config": {"num_attention_heads": 3}}, 3),
        ({}, 0),
    ],
)
def test_the_heads_are_those_of_the_layer_with_most(config, heads):
    assert most_heads(config) == heads
