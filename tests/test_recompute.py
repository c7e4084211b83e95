"""Gradients put together by hand are those of a model whose blocks are checkpointed."""

import numpy as np
import pytest

from pipeline.device import mx, nn
from pipeline.errors import ModelError
from pipeline.model.adapters import AdapterSettings, apply
from pipeline.model.forward import forward
from pipeline.model.scratch import initialize
from pipeline.model.tree import blocks, named_arrays, trainable_arrays
from pipeline.objective import loss_sums
from pipeline.train.plan.recompute import checkpointed_gradients

TOKENS = mx.array([[1, 5, 9, 33, 7, 2]])


def losses_of(model):
    ones = mx.ones(TOKENS.shape)
    return loss_sums(forward(model, TOKENS), TOKENS, ones, ones)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("mode", "num_layers"), [("lora", None), ("lora", 1), ("full", None)])
def test_gradients_are_those_of_the_whole_model(tiny_config, mode, num_layers, tied):
    model = initialize({**tiny_config, "tie_word_embeddings": tied}, seed=0)
    apply(model, AdapterSettings(mode, 4, 8.0, 0.0, num_layers, ("*",)), seed=1)
    for name, value in trainable_arrays(model).items():
        value += mx.random.normal(value.shape, scale=0.1, key=mx.random.key(len(name)))
    kinds = [type(block) for block in blocks(model)]
    (loss, _), gradients = checkpointed_gradients(model, lambda: losses_of(model))
    (wanted, _), tree = nn.value_and_grad(model, lambda: losses_of(model))()
    expected = named_arrays(tree)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-6)
    assert list(gradients) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(gradients[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert [type(block) for block in blocks(model)] == kinds


def test_a_model_that_does_something_between_its_blocks(tiny_model):
    class Between(type(tiny_model.model)):
        def __call__(self, inputs, cache=None, input_embeddings=None):
            hidden = self.embed_tokens(inputs)
            for layer in self.layers:
                hidden = layer(hidden * 2, None, None)
            return self.norm(hidden)

    tiny_model.model.__class__ = Between
    tiny_model.unfreeze()
    with pytest.raises(ModelError, match="Block 1 of the model is not fed what block 0 gave"):
        checkpointed_gradients(tiny_model, lambda: losses_of(tiny_model))
