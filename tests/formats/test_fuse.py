"""Adapters folded into the weights that they change."""

import pytest

from pipeline.device import mx, nn
from pipeline.formats.fuse import fuse
from pipeline.model.network.adapters import (
    apply,
)
from pipeline.model.network.tree import named_arrays
from pipeline.model.scratch import initialize
from tests.model.network.test_adapters import (
    MIXTRAL,
    QUANTISED,
    TOKENS,
    largest,
    settings,
    train_somewhere,
    wide,
)


@pytest.mark.parametrize("changes", [{}, {"attention_bias": True}, MIXTRAL])
def test_fusing_changes_no_logit(tiny_config, changes):
    model = initialize({**tiny_config, **changes}, seed=0)
    base = model(TOKENS)
    apply(model, settings(), seed=1)
    train_somewhere(model)
    tuned = model(TOKENS)
    fuse(model)
    assert largest(tuned - base) > 1e-3
    assert largest(model(TOKENS) - tuned) < 1e-5
    assert not any("lora" in name for name in named_arrays(model.parameters()))


def test_a_fused_weight_is_the_base_plus_the_scaled_product(tiny_model):
    layer = tiny_model.layers[1].self_attn
    weight = layer.k_proj.weight
    apply(tiny_model, settings(rank=2, alpha=6.0), seed=1)
    train_somewhere(tiny_model)
    a, b = layer.k_proj.lora_a, layer.k_proj.lora_b
    fuse(tiny_model)
    assert type(layer.k_proj) is nn.Linear
    assert largest(layer.k_proj.weight - (weight + 3.0 * (a @ b).T)) < 1e-7


def test_fusing_into_a_16_bit_base_is_done_in_float32(tiny_model):
    tiny_model.set_dtype(mx.bfloat16)
    layer = tiny_model.layers[0].mlp
    weight = layer.up_proj.weight.astype(mx.float32)
    apply(tiny_model, settings(), seed=1)
    train_somewhere(tiny_model, deviation=1e-3)
    a, b = layer.up_proj.lora_a, layer.up_proj.lora_b
    fuse(tiny_model)
    assert layer.up_proj.weight.dtype == mx.float32
    assert largest(layer.up_proj.weight - (weight + 2.0 * (a @ b).T)) < 1e-8


@pytest.mark.parametrize(("bits", "mode", "group_size"), QUANTISED)
def test_a_quantised_base_is_dequantised_when_it_is_fused(tiny_config, bits, mode, group_size):
    model = initialize(wide(tiny_config), seed=0)
    nn.quantize(model, group_size=group_size, bits=bits, mode=mode)
    model.set_dtype(mx.float32)
    before = model(TOKENS)
    mx.eval(before)
    apply(model, settings(), seed=1)
    assert mx.array_equal(model(TOKENS), before)
    train_somewhere(model)
    tuned = model(TOKENS)
    fuse(model)
    assert type(model.layers[0].mlp.up_proj) is nn.Linear
    assert model.layers[0].mlp.up_proj.weight.dtype == mx.float32
    assert largest(tuned - before) > 1e-3
    assert largest(model(TOKENS) - tuned) < 1e-5


def test_quantised_experts_are_adapted_and_fused(tiny_config):
    model = initialize(wide(tiny_config, **MIXTRAL), seed=0)
    nn.quantize(model, group_size=32, bits=4)
    apply(model, settings(), seed=1)
    train_somewhere(model)
    tuned = model(TOKENS)
    fuse(model)
    assert largest(model(TOKENS) - tuned) < 1e-5
