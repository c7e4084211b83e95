"""Packed or apart, recomputed or kept: a document's logits and gradients are the same."""

import numpy as np
import pytest

from pipeline.device import mx, nn
from pipeline.errors import ConfigError
from pipeline.model.network.adapters import AdapterSettings, apply
from pipeline.model.network.build import build
from pipeline.model.network.forward import (
    SegmentMask,
    check_packable,
    checkpoint_blocks,
    forward,
    packing_difference,
    random_key,
    set_random_key,
)
from pipeline.model.network.tree import named_arrays, trainable_arrays
from pipeline.model.scratch import initialize
from tests.support.small import random_documents

SLIDING = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3}
QWEN = {"model_type": "qwen3", "head_dim": 4, "attention_bias": False}
GEMMA = {"model_type": "gemma2", "head_dim": 4}
GPT2 = {
    "model_type": "gpt2",
    "n_ctx": 64,
    "n_embd": 16,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 64,
    "layer_norm_epsilon": 1e-5,
    "vocab_size": 64,
}
MAMBA = {
    "model_type": "mamba",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "state_size": 4,
    "num_hidden_layers": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 4,
}
LORA = AdapterSettings("lora", 4, 8.0, 0.0, None, ("*",))


def packed_rows(documents, width):
    """Put documents into rows one behind the other, padded with token 0 and segment -1."""
    rows, ids, places = [[]], [[]], []
    for number, document in enumerate(documents):
        if len(rows[-1]) + len(document) > width:
            rows.append([])
            ids.append([])
        places.append((len(rows) - 1, len(rows[-1])))
        rows[-1] += list(document)
        ids[-1] += [number] * len(document)
    padded = [row + [0] * (width - len(row)) for row in rows]
    segments = [row + [-1] * (width - len(row)) for row in ids]
    return mx.array(padded), mx.array(segments), places


def largest(difference):
    return float(mx.abs(difference).max())


# Packing


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 1}, SLIDING, QWEN])
def test_a_document_has_the_same_logits_packed_and_alone(tiny_config, changes):
    model = initialize({**tiny_config, **changes}, seed=0)
    documents = [ids.tolist() for ids, _ in random_documents(12, shortest=1, longest=24)]
    rows, segments, places = packed_rows(documents, width=48)
    assert rows.shape[0] > 1
    together = forward(model, rows, segments)
    for document, (row, start) in zip(documents, places, strict=True):
        alone = forward(model, mx.array([document]))[0]
        assert largest(together[row, start : start + len(document)] - alone) < 1e-5
    assert float(mx.std(together)) > 0.1


def test_what_a_document_stands_beside_has_no_effect_at_all(tiny_config):
    model = initialize(tiny_config, seed=0)
    segments = mx.array([[0, 0, 0, 1, 1, 1, 1]])
    first = forward(model, mx.array([[3, 4, 5, 6, 7, 8, 9]]), segments)
    other = forward(model, mx.array([[60, 61, 62, 6, 7, 8, 9]]), segments)
    assert mx.array_equal(first[:, 3:], other[:, 3:])
    assert not mx.array_equal(first[:, :3], other[:, :3])


def test_padding_at_the_end_of_a_row_has_no_effect(tiny_config):
    model = initialize(tiny_config, seed=0)
    short = forward(model, mx.array([[3, 4, 5]]))
    long = forward(model, mx.array([[3, 4, 5, 0, 0, 0]]))
    assert largest(long[:, :3] - short) < 1e-5


def test_the_mask_is_causal_within_each_document():
    mask = SegmentMask(mx.array([[0, 0, 1, 1], [5, 5, 5, 2]])).make_mask(4)
    assert np.array(mask[:, 0]).astype(int).tolist() == [
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]],
    ]


def test_the_mask_keeps_to_the_window():
    mask = SegmentMask(mx.array([[0, 0, 0, 0, 1, 1]])).make_mask(6, window_size=2)
    assert np.array(mask[0, 0]).astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("changes", [{}, SLIDING, QWEN])
def test_models_of_relative_positions_are_packable(tiny_config, changes, dtype):
    model = initialize({**tiny_config, **changes}, seed=0)
    model.set_dtype(dtype)
    check_packable(model)


def test_the_probe_ignores_dropout_and_leaves_the_mode_and_the_random_state(tiny_config):
    model = initialize(tiny_config, seed=0)
    apply(model, AdapterSettings("lora", 4, 8.0, 0.5, None, ("*",)), seed=0)
    model.load_weights([(n, v + 0.5) for n, v in trainable_arrays(model).items()], strict=False)
    model.train()
    key = random_key()
    check_packable(model)
    assert model.training
    assert model.layers[0].self_attn.training
    assert random_key() is key


def test_a_model_with_absolute_positions_is_not_packable():
    mx.random.seed(0)
    model = build(GPT2)
    assert packing_difference(model)[0] > 0.1
    message = (
        r"data\.arrangement=packed: this model's output for a document depends on .*bucketed\."
    )
    with pytest.raises(ConfigError, match=message):
        check_packable(model)


@pytest.mark.parametrize(
    ("kv_heads", "said"),
    [(2, "'s output for a document depends on"), (3, " takes no mask .*broadcast")],
)
def test_a_model_whose_attention_takes_no_mask_per_row_is_not_packable(tiny_config, kv_heads, said):
    # Its scores have five axes: a mask of two rows lands on two heads, and of three on none.
    heads = {"num_attention_heads": 2 * kv_heads, "num_key_value_heads": kv_heads}
    with pytest.raises(ConfigError, match=rf"data\.arrangement=packed: this model{said}.*bucketed"):
        check_packable(build({**tiny_config, **GEMMA, **heads}))


def test_a_key_that_is_set_gives_the_numbers_it_gave_before():
    mx.random.seed(1 << 40 | 5)
    mx.random.uniform()
    key = random_key()
    first = mx.random.uniform(shape=(4,)).tolist()
    assert first != mx.random.uniform(shape=(4,)).tolist()
    set_random_key(key)
    assert first == mx.random.uniform(shape=(4,)).tolist()


def test_a_model_that_carries_state_is_not_packable():
    message = r"data\.arrangement=packed: this model keeps ArraysCache, which would leak .*bucketed"
    with pytest.raises(ConfigError, match=message):
        check_packable(build(MAMBA))


# Recomputing blocks


def gradients(model, inputs, segments=None):
    def loss(inputs):
        return mx.square(forward(model, inputs, segments)).mean()

    value, grads = nn.value_and_grad(model, loss)(inputs)
    mx.eval(value, grads)
    return value, named_arrays(grads)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_recomputed_blocks_give_the_same_gradients(tiny_config, mode, packed, dropout):
    inputs = mx.random.randint(0, 64, (3, 12), key=mx.random.key(1))
    segments = mx.array([[0] * 5 + [1] * 7] * 3) if packed else None
    results = []
    for recompute in (False, True):
        model = initialize(tiny_config, seed=0)
        apply(model, AdapterSettings(mode, 4, 8.0, dropout, None, ("*",)), seed=0)
        moved = [(n, v + 0.1) for n, v in trainable_arrays(model).items() if "lora_b" in n]
        model.load_weights(moved, strict=False)
        model.train()
        if recompute:
            checkpoint_blocks(model)
        mx.random.seed(7)
        losses = [gradients(model, inputs, segments) for _ in range(2)]
        results.append((losses, random_key(), named_arrays(model.parameters())))
    (kept, kept_state, kept_weights), (again, again_state, again_weights) = results
    for (loss, grads), (other_loss, other_grads) in zip(kept, again, strict=True):
        assert mx.array_equal(loss, other_loss)
        assert grads.keys() == other_grads.keys()
        assert all(mx.allclose(grads[n], other_grads[n], rtol=1e-5, atol=1e-7) for n in grads)
        assert max(largest(grad) for grad in grads.values()) > 1e-3
    assert mx.array_equal(kept_state, again_state)
    assert all(mx.array_equal(kept_weights[n], again_weights[n]) for n in kept_weights)
    if dropout and mode == "lora":
        assert not mx.array_equal(kept[0][0], kept[1][0])  # each step drops other units


def test_recomputing_patches_no_class(tiny_config):
    one, other = initialize(tiny_config, seed=0), initialize(tiny_config, seed=0)
    kind, call = type(other.layers[0]), type(other.layers[0]).__call__
    checkpoint_blocks(one)
    assert type(other.layers[0]) is kind
    assert kind.__call__ is call
    assert isinstance(one.layers[0], kind)
    assert type(one.layers[0]) is not kind
    assert mx.array_equal(one(mx.array([[1, 2, 3]])), other(mx.array([[1, 2, 3]])))


def test_recomputing_keeps_less_for_the_backward_pass(tiny_config):
    inputs = mx.zeros((4, 64), mx.int32)
    peaks = []
    for recompute in (False, True):
        model = initialize({**tiny_config, "num_hidden_layers": 6}, seed=0)
        apply(model, LORA, seed=0)
        if recompute:
            checkpoint_blocks(model)
        mx.clear_cache()
        mx.reset_peak_memory()
        start = mx.get_active_memory()
        gradients(model, inputs)
        peaks.append(mx.get_peak_memory() - start)
    assert peaks[1] < 0.7 * peaks[0]
