"""What each way of training changes, and what it leaves alone to the bit."""

import dataclasses
import hashlib

import numpy as np
import pytest

from pipeline.data.batches import RowLayout, arrange
from pipeline.device import mx
from pipeline.formats.fuse import fuse
from pipeline.model.network.adapters import apply, load_adapter, make_trainable, save_adapter
from pipeline.model.network.base import count_parameters
from pipeline.model.network.build import build
from pipeline.model.network.tree import named_arrays, trainable_arrays
from pipeline.model.scratch import initialize
from pipeline.optim.optimizer import OptimSettings, make_optimizer
from pipeline.train.step import TrainStep
from tests.support.modes import MODES, settings_of

TOKENS = mx.array([[1, 5, 9, 33, 2, 60], [7, 7, 3, 4, 5, 6]])
TIED = pytest.mark.parametrize("tied", [True, False])
KINDS = pytest.mark.parametrize("kind", MODES)
QWEN2_05B = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
"""The config.json of Qwen2.5-0.5B."""


def made(config, kind, tied=True, **changes):
    """Make a model trainable; give it, its base weights and the configuration of the adapter."""
    model = initialize({**config, "tie_word_embeddings": tied}, seed=0)
    before = hashes(model)
    return model, before, apply(model, settings_of(kind, **changes), seed=1)


def hashes(model):
    """Hash every weight of the base by the name that it has there."""
    return {
        name.replace(".linear.", ".").replace(".embedding.", "."): digest(value)
        for name, value in named_arrays(model.parameters()).items()
        if not name.endswith(("lora_a", "lora_b", ".m"))
    }


def digest(value):
    return hashlib.sha256(np.array(value).tobytes()).hexdigest()


def train(model, store, steps=2):
    optimizer = make_optimizer(OptimSettings(1e-2, 0.01, 0.0), 10)
    optimizer.init(model.trainable_parameters())
    step = TrainStep(model, optimizer, None)
    model.train()
    for first in range(0, 4 * steps, 4):
        chosen = np.arange(first, first + 4)
        step(arrange(store, chosen, RowLayout("bucketed", int(store.lengths.max()))))
    model.eval()


@TIED
@KINDS
def test_training_starts_from_the_base(tiny_config, kind, tied):
    base = initialize({**tiny_config, "tie_word_embeddings": tied}, seed=0)(TOKENS)
    model, _, _ = made(tiny_config, kind, tied)
    difference = float(mx.abs(model(TOKENS) - base).max())
    assert difference < 1e-6 if kind.startswith("dora") else difference == 0


@TIED
@KINDS
def test_only_what_the_mode_names_changes(tiny_config, make_store, kind, tied):
    model, before, _ = made(tiny_config, kind, tied)
    started = {name: digest(value) for name, value in trainable_arrays(model).items()}
    train(model, make_store())
    after = hashes(model)
    changed = {name for name in before if after[name] != before[name]}
    trained = {
        name for name, value in trainable_arrays(model).items() if digest(value) != started[name]
    }
    assert trained == set(started)
    assert changed == (trained & before.keys() if settings_of(kind).trains_matrices else set())
    wanted = {
        "head": {"model.norm.weight"} | (set() if tied else {"lm_head.weight"}),
        "full": set(before),
        "tensors": {"model.norm.weight"}
        | {name for name in before if name.startswith("model.layers.1.") and "_proj" in name},
    }
    assert changed == wanted.get(kind, set())


@KINDS
def test_a_frozen_weight_has_no_gradient(tiny_config, make_store, kind):
    model, _, _ = made(tiny_config, kind)
    optimizer = make_optimizer(OptimSettings(1e-2, 0.0, 0.0), 1)
    step, store = TrainStep(model, optimizer, None), make_store()
    ((batch,),) = arrange(store, np.arange(4), RowLayout("bucketed", 24))
    _, gradients = step.loss_and_grad(batch)
    assert named_arrays(gradients).keys() == trainable_arrays(model).keys()
    adapter = {"lora_a", "lora_b", "m"}
    inside = {name.rpartition(".")[2] for name in named_arrays(gradients)}
    assert inside <= adapter if not settings_of(kind).trains_matrices else not inside & adapter


@TIED
@KINDS
def test_saving_and_loading_gives_the_same_model(tiny_config, make_store, tmp_path, kind, tied):
    model, _, config = made(tiny_config, kind, tied)
    train(model, make_store())
    save_adapter(tmp_path, trainable_arrays(model), config)
    loaded = initialize({**tiny_config, "tie_word_embeddings": tied}, seed=0)
    assert load_adapter(loaded, tmp_path) == config
    assert mx.array_equal(loaded(TOKENS), model(TOKENS))
    make_trainable(loaded, config)
    assert trainable_arrays(loaded).keys() == trainable_arrays(model).keys()


@TIED
@KINDS
def test_fusing_changes_no_logit(tiny_config, make_store, kind, tied):
    model, before, _ = made(tiny_config, kind, tied)
    train(model, make_store())
    tuned = model(TOKENS)
    mx.eval(tuned)
    fuse(model)
    assert float(mx.abs(model(TOKENS) - tuned).max()) < 1e-5
    own_head = {"lm_head.weight"} if kind == "head" else set()
    assert named_arrays(model.parameters()).keys() == before.keys() | own_head


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_quantised_bases_never_change_either(tiny_config, make_store, kind):
    from pipeline.device import nn

    model = initialize({**tiny_config, "hidden_size": 64, "intermediate_size": 64}, seed=0)
    nn.quantize(model, group_size=32, bits=4)
    before, base = hashes(model), model(TOKENS)
    apply(model, settings_of(kind), seed=1)
    assert float(mx.abs(model(TOKENS) - base).max()) < 1e-5
    train(model, make_store())
    assert hashes(model) == before
    assert float(mx.abs(model(TOKENS) - base).max()) > 1e-3


# Counts


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("lora", {"targets": ("q_proj", "v_proj"), "rank": 8}, 540_672),
        ("lora", {"targets": ("embed_tokens",), "rank": 2}, 2 * (151_936 + 896)),
        ("dora", {"targets": ("q_proj", "v_proj"), "rank": 8}, 540_672 + 24 * (896 + 128)),
        ("head", {}, 896 + 896 * 151_936),
        ("tensors", {"tensors": ("*.k_proj.bias",)}, 24 * 128),
    ],
)
def test_counts_follow_the_shapes_of_a_real_model(kind, changes, expected):
    model = build(QWEN2_05B)
    total = count_parameters(model)[1]
    apply_lazily(model, settings_of(kind, **changes))
    added = 0 if kind == "tensors" else expected - (896 if kind == "head" else 0)
    assert count_parameters(model) == (expected, total + added)


def apply_lazily(model, settings):
    from pipeline.model.network.adapters import attach

    attach(model, settings)


# Keys: each changes what it should


def trained_with(config, store, kind="lora", steps=3, **changes):
    model, _, _ = made(config, kind, **changes)
    train(model, store, steps)
    return {name: digest(value) for name, value in trainable_arrays(model).items()}


@pytest.mark.parametrize(
    ("name", "value"),
    [("rank", 5), ("alpha", 9.0), ("rslora", True), ("dropout", 0.3), ("mode", "dora")],
)
def test_a_key_of_the_adapter_changes_what_is_learnt(tiny_config, make_store, name, value):
    store = make_store()
    usual = trained_with(tiny_config, store)
    assert trained_with(tiny_config, store) == usual
    other = trained_with(tiny_config, store, **{name: value})
    assert all(other[each] != usual[each] for each in usual)
    assert (other.keys() == usual.keys()) == (name != "mode")


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"num_layers": 1, "targets": ("q_proj",)}, {"model.layers.1.self_attn.q_proj"}),
        (
            {"targets": ("q_proj",)},
            {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"},
        ),
        ({"num_layers": 1, "targets": ("embed_tokens",)}, {"model.embed_tokens"}),
        (
            {"tied": False, "num_layers": 1, "targets": ("lm_*", "v_proj")},
            {"lm_head", "model.layers.1.self_attn.v_proj"},
        ),
    ],
)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_layers_and_targets_say_where_adapters_are(tiny_config, kind, changes, names):
    model, _, _ = made(tiny_config, kind, **changes)
    assert {name.rpartition(".")[0] for name in trainable_arrays(model)} == names


@pytest.mark.parametrize(
    ("rank", "rslora", "scale"), [(4, False, 4.0), (4, True, 8.0), (16, True, 4.0), (1, True, 16.0)]
)
def test_the_scale(rank, rslora, scale):
    settings = settings_of("lora", rank=rank, rslora=rslora, alpha=16.0)
    assert settings.scale == scale
    assert dataclasses.replace(settings, alpha=32.0).scale == 2 * scale
