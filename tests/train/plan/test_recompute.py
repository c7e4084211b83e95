"""Gradients put together by hand are those of a model whose blocks are checkpointed."""

import dataclasses

import numpy as np
import pytest

from pipeline.data.batches import Batch
from pipeline.device import mx, nn
from pipeline.errors import ModelError
from pipeline.model.body_and_head import BodyAndHead
from pipeline.model.network.adapters import AdapterSettings, apply
from pipeline.model.network.tree import blocks, named_arrays, trainable_arrays
from pipeline.model.scratch import initialize
from pipeline.objective.chunked_head import loss_sums
from pipeline.train.plan import recompute
from pipeline.train.plan.recompute import block_gradients, checkpointed_gradients

TOKENS = np.array([[1, 5, 9, 33, 7, 2]], np.int32)


def losses_of(body_and_head):
    ones = np.ones(TOKENS.shape, np.float32)
    segments = ones.astype(np.int32)
    return loss_sums(body_and_head, Batch(TOKENS, TOKENS, ones, segments, ones, np.arange(1)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("lora", {}),
        ("lora", {"num_layers": 1}),
        ("lora", {"num_layers": 1, "targets": ("q_proj", "embed_tokens")}),
        ("lora", {"targets": ("embed_tokens",)}),
        ("dora", {}),
        ("full", {}),
        ("head", {}),
        ("tensors", {"tensors": ("model.norm.weight", "model.layers.1.*")}),
    ],
)
def test_gradients_are_those_of_the_whole_model(tiny_config, mode, changes, tied):
    model = initialize({**tiny_config, "tie_word_embeddings": tied}, seed=0)
    settings = AdapterSettings(mode, 4, 8.0, 0.0, None, ("*",))
    apply(model, dataclasses.replace(settings, **changes), seed=1)
    for name, value in trainable_arrays(model).items():
        value += mx.random.normal(value.shape, scale=0.1, key=mx.random.key(len(name)))
    kinds, body_and_head = [type(block) for block in blocks(model)], BodyAndHead(model)
    (loss, *_), found = checkpointed_gradients(model, lambda: losses_of(body_and_head))
    (wanted, *_), tree = nn.value_and_grad(model, lambda: losses_of(body_and_head))()
    gradients, expected = named_arrays(found), named_arrays(tree)
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
    body_and_head = BodyAndHead(tiny_model)
    with pytest.raises(ModelError, match="Block 1 of the model is not fed what block 0 gave"):
        checkpointed_gradients(tiny_model, lambda: losses_of(body_and_head))


@pytest.mark.parametrize(
    ("mode", "changes", "again"),
    [
        ("lora", {}, 2),
        ("lora", {"num_layers": 1}, 1),
        ("lora", {"num_layers": 1, "targets": ("q_proj", "lm_head")}, 1),
        ("lora", {"targets": ("embed_tokens",)}, 2),
        ("head", {}, 0),
        ("full", {}, 2),
    ],
)
def test_only_blocks_that_a_gradient_reaches_are_run_again(
    tiny_config, monkeypatch, mode, changes, again
):
    model = initialize({**tiny_config, "tie_word_embeddings": False}, seed=0)
    settings = AdapterSettings(mode, 4, 8.0, 0.0, None, ("*",))
    apply(model, dataclasses.replace(settings, **changes), seed=1)
    seen = []

    def counted(*arguments):
        seen.append(arguments)
        return block_gradients(*arguments)

    monkeypatch.setattr(recompute, "block_gradients", counted)
    body_and_head = BodyAndHead(model)
    checkpointed_gradients(model, lambda: losses_of(body_and_head))
    assert len(seen) == again
