"""A model in two parts: the parts give what the whole gives, in every architecture."""

import gc

import numpy as np
import pytest

from pipeline.device import mlx_memory, mx, nn
from pipeline.model.body_and_head import BodyAndHead
from pipeline.model.network.adapters import apply
from pipeline.model.network.build import build
from pipeline.model.network.forward import forward, random_key
from pipeline.model.network.head import give_own_head
from pipeline.model.network.tree import named_arrays
from pipeline.model.scratch import initialize
from tests.model.network.test_head import GPT2, PHI
from tests.support.modes import settings_of

TOKENS = mx.array([[1, 5, 9, 33, 7, 2], [3, 4, 60, 6, 7, 8]])
SEGMENTS = mx.array([[1, 1, 1, 2, 2, 2], [3, 3, 4, 4, 4, 4]])
LIKE_LLAMA = {
    "llama": {},
    "untied": {"tie_word_embeddings": False},
    "soft-capped": {"model_type": "gemma2", "head_dim": 4, "final_logit_softcapping": 3.0},
    "logits scaled": {"model_type": "cohere", "logit_scale": 0.3},
    "logits divided": {
        "model_type": "granite",
        "logits_scaling": 3.0,
        "embedding_multiplier": 2.0,
        "attention_multiplier": 0.25,
        "residual_multiplier": 0.5,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "hidden states scaled": {
        "model_type": "minicpm",
        "dim_model_base": 4,
        "scale_depth": 1.4,
        "scale_emb": 2,
        "tie_word_embeddings": False,
    },
    "a model within a model": {"model_type": "gemma3", "text_config": {}},
}


def made(tiny_config, changes):
    wide = {"hidden_size": 64, "intermediate_size": 64}  # so that it can be quantised
    model = build({**tiny_config, **wide, **changes})
    mx.eval(model.parameters())
    return model


CONFIGS = {**LIKE_LLAMA, "phi": PHI, "gpt2": GPT2}


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_the_parts_give_the_logits_of_the_whole(tiny_config, change):
    if "text_config" in change:
        text = {"model_type": "gemma3_text", "sliding_window_pattern": 2}
        change = change | {"text_config": {**tiny_config, **text}}
    model = made({} if "vocab_size" in change else tiny_config, change)
    body_and_head = BodyAndHead.proven(model)
    assert body_and_head.problem == ""
    hidden, logits = body_and_head.hidden(TOKENS), forward(model, TOKENS)
    assert hidden.shape[:2] == TOKENS.shape
    found = body_and_head.head(hidden.flatten(0, 1)).reshape(logits.shape)
    np.testing.assert_allclose(np.array(found), np.array(logits), rtol=1e-5, atol=1e-5)
    assert body_and_head.vocab_size == logits.shape[-1]


def test_packed_rows_are_split_too(tiny_model):
    body_and_head = BodyAndHead(tiny_model)
    found = body_and_head.head(body_and_head.hidden(TOKENS, SEGMENTS).flatten(0, 1))
    wanted = forward(tiny_model, TOKENS, SEGMENTS).flatten(0, 1)
    assert float(mx.abs(found - wanted).max()) < 1e-5


@pytest.mark.parametrize(
    ("mode", "changes", "tied", "names"),
    [
        ("lora", {}, False, []),
        ("lora", {"targets": ("lm_head",)}, False, ["lm_head.lora_a", "lm_head.lora_b"]),
        (
            "lora",
            {"targets": ("embed_tokens",)},
            True,
            ["model.embed_tokens.lora_a", "model.embed_tokens.lora_b"],
        ),
        ("lora", {"targets": ("embed_tokens",)}, False, []),
        ("head", {}, True, ["lm_head.weight"]),
        ("full", {}, False, ["lm_head.weight"]),
        ("full", {}, True, ["model.embed_tokens.weight"]),
        ("tensors", {"tensors": ("model.norm.weight",)}, True, []),
    ],
)
def test_what_of_the_head_is_trained_is_found(tiny_config, mode, changes, tied, names):
    model = initialize({**tiny_config, "tie_word_embeddings": tied}, seed=0)
    apply(model, settings_of(mode, **changes), seed=0)
    body_and_head = BodyAndHead(model)
    assert sorted(body_and_head.trainable()) == names
    sizes = named_arrays(model.trainable_parameters())
    assert body_and_head.num_trained == sum(sizes[name].size for name in names)


def test_the_model_is_left_as_it_was(tiny_config):
    model = initialize({**tiny_config, "tie_word_embeddings": False}, seed=0)
    apply(model, settings_of("lora", dropout=0.5, targets=("lm_head", "q_proj")), seed=0)
    model.train()
    kinds = [type(module) for _, module in model.named_modules()]
    weights = named_arrays(model.parameters())
    body_and_head = BodyAndHead.proven(model)
    own = body_and_head.trainable()
    body_and_head.head_with(mx.zeros((3, 16)), own, [value * 2 for value in own.values()])
    assert [type(module) for _, module in model.named_modules()] == kinds
    assert all(model_value is weights[name] for name, model_value in own.items())
    assert model.training
    assert model.lm_head.training
    assert not any("_answer" in vars(module) for _, module in model.named_modules())


def test_proving_draws_no_random_numbers(tiny_config):
    model = initialize(tiny_config, seed=0)
    apply(model, settings_of("lora", dropout=0.5), seed=0)
    key = random_key()
    assert BodyAndHead.proven(model).problem == ""
    assert random_key() is key


def test_nothing_is_kept_of_what_went_through(tiny_model):
    body_and_head = BodyAndHead(tiny_model)
    gc.collect()
    gc.disable()  # a class that refers to an array goes only with its cycle
    try:
        mx.eval(body_and_head.head(body_and_head.hidden(TOKENS).flatten(0, 1)))
        before = mlx_memory().active_bytes
        for _ in range(3):
            mx.eval(body_and_head.head(body_and_head.hidden(TOKENS).flatten(0, 1)))
        assert mlx_memory().active_bytes == before
    finally:
        gc.enable()


class PositionedHead(nn.Module):
    """Logits that depend on the place of a row."""

    def __init__(self, model):
        super().__init__()
        self.model, self.args = model.model, model.args

    @property
    def layers(self):
        return self.model.layers

    def __call__(self, inputs, cache=None):
        logits = self.model.embed_tokens.as_linear(self.model(inputs, cache))
        return logits * mx.arange(1, inputs.shape[1] + 1)[:, None]


class TokenHead(PositionedHead):
    """Logits that depend on the tokens too."""

    def __call__(self, inputs, cache=None):
        logits = self.model.embed_tokens.as_linear(self.model(inputs, cache))
        return logits + inputs[..., None]


class TwoResults(PositionedHead):
    """A body that gives two arrays."""

    def __call__(self, inputs, cache=None):
        hidden, _ = self.model(inputs, cache)
        return self.model.embed_tokens.as_linear(hidden)


@pytest.mark.parametrize("kind", [PositionedHead, TokenHead])
def test_a_head_that_needs_more_than_the_row_is_left_whole(tiny_model, kind):
    model = kind(tiny_model)
    body_and_head = BodyAndHead.proven(model)
    assert "its logits then differ by" in body_and_head.problem
    assert mx.array_equal(body_and_head.head(body_and_head.hidden(TOKENS)[0]), model(TOKENS)[0])
    assert body_and_head.trainable() == {}


def test_a_body_that_gives_something_else_is_left_whole(tiny_model):
    class Pair(type(tiny_model.model)):
        def __call__(self, *arguments):
            return super().__call__(*arguments), None

    tiny_model.model.__class__ = Pair
    body_and_head = BodyAndHead(TwoResults(tiny_model))
    assert "tuple" in body_and_head.problem
    assert body_and_head.body is None
    assert body_and_head.vocab_size == 64


def test_a_model_whose_blocks_are_its_own_is_left_whole(tiny_model):
    class Flat(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.embed_tokens, self.layers, self.norm = inner.embed_tokens, inner.layers, inner.norm

        def __call__(self, inputs, cache=None):
            hidden = self.embed_tokens(inputs)
            for layer in self.layers:
                hidden = layer(hidden, None, None)
            return self.embed_tokens.as_linear(self.norm(hidden))

    assert (
        BodyAndHead(Flat(tiny_model.model)).problem == "its blocks are not in a part of their own"
    )


def test_a_quantised_head_is_split(tiny_config):
    model = made(tiny_config, {"tie_word_embeddings": False})
    nn.quantize(model, group_size=32, bits=4)
    body_and_head = BodyAndHead.proven(model)
    assert (body_and_head.problem, body_and_head.trainable()) == ("", {})
    assert give_own_head(model)  # the head is another layer now
    assert BodyAndHead.proven(model).problem == ""
