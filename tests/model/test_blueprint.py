"""A model without weights has the shapes and types that the loaded one would have."""

import pytest

from pipeline.device import mlx_memory, mx
from pipeline.model.blueprint import blueprint
from pipeline.model.network.tree import named_arrays, quantized_layers, trainable_arrays
from tests.support.published import LLAMA_70B


@pytest.mark.parametrize(
    ("stated", "asked", "found"),
    [
        ({"torch_dtype": "bfloat16"}, "auto", mx.float32),  # on a CPU
        ({"torch_dtype": "bfloat16"}, "bfloat16", mx.bfloat16),
        ({"torch_dtype": "bfloat16"}, "float16", mx.float16),
    ],
)
def test_weights_have_the_type_they_are_computed_in(tiny_config, stated, asked, found):
    model = blueprint({**tiny_config, **stated}, asked)
    assert {value.dtype for value in named_arrays(model.parameters()).values()} == {found}


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ({"torch_dtype": "bfloat16"}, mx.bfloat16),
        ({"torch_dtype": None, "dtype": "float16"}, mx.float16),
        ({"torch_dtype": None, "text_config": {"dtype": "bfloat16"}}, mx.bfloat16),
        ({"torch_dtype": None}, mx.float32),
    ],
)
def test_elsewhere_they_stay_as_stored(tiny_config, stated, found, monkeypatch):
    monkeypatch.setattr("pipeline.model.network.base.is_cpu", lambda: False)
    model = blueprint({**tiny_config, **stated}, "auto")
    assert {value.dtype for value in named_arrays(model.parameters()).values()} == {found}


def test_a_base_is_quantised_as_its_config_says(tiny_config):
    shape = {**tiny_config, "hidden_size": 64, "intermediate_size": 64}
    settings = {"group_size": 32, "bits": 4, "model.layers.0.mlp.up_proj": False}
    model = blueprint({**shape, "quantization": settings}, "auto")
    assert len(quantized_layers(model)) == 2 * 7 + 1 - 1  # the embedding too, up_proj once not
    assert {layer.bits for layer in quantized_layers(model)} == {4}


def test_a_base_may_be_thought_of_as_quantised(tiny_config):
    shape = {**tiny_config, "hidden_size": 64, "intermediate_size": 96}
    layers = quantized_layers(blueprint(shape, "auto", bits=8))
    assert {layer.bits for layer in layers} == {8}
    assert len(layers) == 2 * 6 + 1  # rows of down_proj cannot be cut into groups of 64


def test_nothing_is_computed_and_nothing_trainable():
    before = mlx_memory().active_bytes
    model = blueprint(LLAMA_70B, "bfloat16")
    assert sum(value.nbytes for value in named_arrays(model.parameters()).values()) > 140e9
    assert mlx_memory().active_bytes - before < 100_000
    assert trainable_arrays(model) == {}
