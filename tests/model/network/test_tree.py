"""The parts of a model by name."""

from pipeline.device import mx, nn
from pipeline.model.network.tree import (
    blocks,
    dimensions,
    named_arrays,
    own_arrays,
    quantized_layers,
    shapes,
    trainable_arrays,
    unfreeze,
)


def test_arrays_have_dotted_names():
    tree = {"a": {"b": mx.zeros((2, 3))}, "c": [mx.zeros((1,))]}
    assert shapes(tree) == {"a.b": (2, 3), "c.0": (1,)}
    assert list(named_arrays(tree)) == ["a.b", "c.0"]


def test_only_what_is_unfrozen_by_name_is_trained(tiny_model):
    tiny_model.freeze()
    assert trainable_arrays(tiny_model) == {}
    unfreeze(tiny_model, ["model.norm.weight"])
    assert list(trainable_arrays(tiny_model)) == ["model.norm.weight"]


def test_weights_outside_of_blocks(tiny_model):
    outside = own_arrays(tiny_model, inside_blocks=False)
    assert set(outside) == {"model.embed_tokens.weight", "model.norm.weight"}
    assert set(own_arrays(tiny_model)) == set(named_arrays(tiny_model.parameters()))
    assert len(blocks(tiny_model)) == 2


def test_a_packed_matrix_has_the_dimensions_of_the_plain_one():
    layer = nn.Linear(64, 8, bias=False)
    packed = nn.QuantizedLinear.from_linear(layer, group_size=32, bits=4)
    assert dimensions(layer) == dimensions(packed) == (8, 64)
    assert quantized_layers(nn.Sequential(layer, packed)) == [packed]
