"""One update: how documents are laid out never changes it, and nothing non-finite passes."""

import numpy as np
import pytest

from pipeline.config.optimizers import OPTIMIZERS
from pipeline.data.batches import RowLayout, arrange
from pipeline.device import mx, nn
from pipeline.model.network.adapters import AdapterSettings, apply
from pipeline.model.network.forward import checkpoint_blocks
from pipeline.model.network.tree import named_arrays, trainable_arrays
from pipeline.model.scratch import initialize
from pipeline.optim.optimizer import OptimSettings, make_optimizer
from pipeline.train.finetune import optim_settings
from pipeline.train.step import TrainStep, global_norm
from stages.params import composed

LORA = AdapterSettings("lora", 4, 8.0, 0.0, None, ("*",))
FULL = AdapterSettings("full", 4, 8.0, 0.0, None, ("*",))


ADAMW = OptimSettings(1e-2, 0.0, 0.0)


def batches_of(store, arrangement="bucketed", micro=1, weights=None, count=9):
    return arrange(
        store,
        np.arange(count),
        RowLayout(arrangement, int(store.lengths.max())),
        num_micro_batches=micro,
        weights=weights,
    )


def trained(config, settings, batches, steps=2, max_grad_norm=1.0, checkpointed=False, optim=ADAMW):
    model = initialize(config, seed=0)
    apply(model, settings, seed=5)
    if checkpointed:
        checkpoint_blocks(model)
    optimizer = make_optimizer(optim, 10)
    optimizer.init(model.trainable_parameters())
    step = TrainStep(model, optimizer, max_grad_norm)
    results = [step(batches) for _ in range(steps)]
    return results, {name: np.array(value) for name, value in trainable_arrays(model).items()}


@pytest.mark.parametrize("settings", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize(
    ("arrangement", "micro", "checkpointed"),
    [
        ("bucketed", 3, False),
        ("bucketed", 9, False),
        ("packed", 1, False),
        ("packed", 2, False),
        ("bucketed", 2, True),
        ("packed", 1, True),
    ],
)
def test_arrangement_never_changes_an_update(
    tiny_config, make_store, settings, arrangement, micro, checkpointed
):
    store = make_store()
    wanted, weights = trained(tiny_config, settings, batches_of(store))
    found, others = trained(
        tiny_config, settings, batches_of(store, arrangement, micro), checkpointed=checkpointed
    )
    for one, other in zip(wanted, found, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-6)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
        assert other.num_targets == one.num_targets == int(store.num_targets[:9].sum())
    for name, value in weights.items():
        np.testing.assert_allclose(others[name], value, rtol=2e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_micro_batches_never_change_an_update_of_any_optimizer(tiny_config, make_store, name):
    store, optim, start = make_store(), optim_settings(composed([f"optim={name}"]), 0), {}
    for micro in (1, 4):
        batches = batches_of(store, micro=micro)
        results, start[micro] = trained(tiny_config, FULL, batches, 3, optim=optim)
        assert results[-1].train_loss < results[0].train_loss
    initial = trained(tiny_config, FULL, batches_of(store), 0)[1]
    for key, value in start[1].items():
        way = np.linalg.norm(value - initial[key])
        assert np.linalg.norm(start[4][key] - value) < 5e-3 * way, key


OBJECTIVES = {
    "none": {},
    "weighted": {"weights": True},
    "additive": {"distrust_sums": np.full(24, 700.0)},
    "smoothed": {"label_smoothing": 0.3},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_is_that_of_finite_differences(tiny_config, make_store, name):
    store = make_store()
    objective = dict(OBJECTIVES[name])
    weights = np.linspace(0.1, 1.9, 24, dtype=np.float32) if objective.pop("weights", 0) else None
    ((batch,),) = batches_of(store, weights=weights)
    model = initialize(tiny_config, seed=0)
    apply(model, LORA, seed=5)
    optimizer = make_optimizer(OptimSettings(1e-2, 0.0, 0.0), 1)
    step = TrainStep(model, optimizer, None, **objective)
    name = "model.layers.1.self_attn.q_proj"
    layer = model.layers[1].self_attn.q_proj
    layer.lora_b = mx.random.normal(layer.lora_b.shape, key=mx.random.key(3)) * 0.3
    _, gradients = step.loss_and_grad(batch)
    gradient = named_arrays(gradients)[f"{name}.lora_a"]
    direction = mx.random.normal(gradient.shape, key=mx.random.key(4))
    start, sums = layer.lora_a, []
    for sign in (1, -1):
        layer.lora_a = start + sign * 0.01 * direction
        sums.append(float(step.losses(batch)[0]))
    slope = (sums[0] - sums[1]) / 0.02
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=2e-2)


def test_only_adapters_move(tiny_config, make_store):
    model = initialize(tiny_config, seed=0)
    apply(model, LORA, seed=5)
    before = {name: np.array(value) for name, value in named_arrays(model.parameters()).items()}
    optimizer = make_optimizer(OptimSettings(1e-2, 0.0, 0.0), 10)
    optimizer.init(model.trainable_parameters())
    TrainStep(model, optimizer, 1.0)(batches_of(make_store()))
    moved = {
        name.rsplit(".", 1)[-1]
        for name, value in named_arrays(model.parameters()).items()
        if not np.array_equal(np.array(value), before[name])
    }
    assert moved == {"lora_b"}  # lora_a has no gradient while lora_b is zero


def test_long_gradients_are_clipped_to_the_norm(tiny_config, make_store):
    model = initialize(tiny_config, seed=0)
    model.unfreeze()
    step = TrainStep(model, make_optimizer(OptimSettings(1e-2, 0.0, 0.0), 1), 0.01)
    _, gradients = step.accumulate(batches_of(make_store()))
    norm = global_norm(gradients)
    assert float(norm) > 0.01
    assert float(global_norm(step.clipped(gradients, norm))) == pytest.approx(0.01, rel=1e-3)
    step.max_grad_norm = float(norm) * 2
    unchanged = named_arrays(step.clipped(gradients, norm))
    assert all(
        mx.array_equal(value, unchanged[name]) for name, value in named_arrays(gradients).items()
    )


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_gradients_of_micro_batches_are_added_as_in_float64(tiny_config, make_store, dtype):
    model = initialize(tiny_config, seed=0)
    model.set_dtype(dtype)
    model.unfreeze()
    step = TrainStep(model, make_optimizer(ADAMW, 1), None)
    micro_batches = batches_of(make_store(), micro=9)
    _, gradients = step.accumulate(micro_batches)
    each = [step.loss_and_grad(batch)[1] for (batch,) in micro_batches]
    parts = [named_arrays(tree) for tree in each]
    for name, value in named_arrays(gradients).items():
        arrays = [np.array(part[name].astype(mx.float32)) for part in parts]
        assert value.dtype == mx.float32
        exact = np.sum(arrays, axis=0, dtype=np.float64)
        most = np.sum(np.abs(arrays), axis=0)
        assert (np.abs(np.array(value) - exact) <= 1e-6 * most).all(), name
        if dtype == mx.float32:
            in_order = sum(arrays[1:], arrays[0])
            np.testing.assert_array_equal(np.array(value), in_order)


def test_the_norm_is_that_over_all_tensors():
    assert float(global_norm({"a": mx.array([3.0]), "b": {"c": mx.array([[4.0]])}})) == 5.0


def test_the_norm_of_a_large_tensor_is_right_and_so_is_clipping(tiny_model):
    """MLX's own sum of 28 million ones is 16,777,216 on a CPU."""
    gradients = {"embed": mx.ones((49_152, 576)), "norm": mx.ones((576,))}
    norm = global_norm(gradients)
    assert float(norm) == pytest.approx((49_153 * 576) ** 0.5, rel=1e-6)
    step = TrainStep(tiny_model, make_optimizer(OptimSettings(1e-2, 0.0, 0.0), 1), 1.0)
    clipped = np.array(step.clipped(gradients, norm)["embed"])
    assert np.square(clipped).sum(dtype=np.float64) == pytest.approx(49_152 / 49_153, rel=2e-6)


def test_weights_of_documents_change_the_gradient_and_not_the_reported_loss(
    tiny_config, make_store
):
    store = make_store()
    ones, halves = np.ones(24, np.float32), np.full(24, 0.5, np.float32)
    skewed = np.where(np.arange(24) % 2, 1.9, 0.1).astype(np.float32)
    plain, _ = trained(tiny_config, LORA, batches_of(store), 1)
    same, _ = trained(tiny_config, LORA, batches_of(store, weights=ones), 1)
    half, _ = trained(tiny_config, LORA, batches_of(store, weights=halves), 1)
    other, _ = trained(tiny_config, LORA, batches_of(store, weights=skewed), 1)
    assert same == plain
    assert half[0].train_loss == plain[0].train_loss == other[0].train_loss
    assert half[0].grad_norm == pytest.approx(plain[0].grad_norm / 2, rel=1e-5)
    assert other[0].grad_norm != pytest.approx(plain[0].grad_norm, rel=1e-3)


def test_a_non_finite_loss_updates_nothing(tiny_config, make_store):
    model = initialize(tiny_config, seed=0)
    apply(model, LORA, seed=5)
    model.model.norm.weight = mx.full(model.model.norm.weight.shape, float("nan"))
    optimizer = make_optimizer(OptimSettings(1e-2, 0.0, 0.0), 10)
    optimizer.init(model.trainable_parameters())
    before = {name: np.array(value) for name, value in trainable_arrays(model).items()}
    result = TrainStep(model, optimizer, 1.0)(batches_of(make_store()))
    assert not result.finite
    assert int(optimizer.step) == 0
    for name, value in trainable_arrays(model).items():
        assert np.array_equal(np.array(value), before[name])


def test_a_loss_is_that_of_mlx_lm_with_its_mask_corrected(tiny_model, make_store):
    """mlx-lm counts one padding token per row; with the row's true length it is our loss."""
    from mlx_lm.tuner.trainer import default_loss

    store = make_store()
    index = 1  # a document whose every token but the first is a target
    tokens = mx.array(store.tokens(index)[None])
    theirs, count = default_loss(tiny_model, tokens, mx.array([[0, len(store.tokens(index)) - 1]]))
    step = TrainStep(tiny_model, make_optimizer(OptimSettings(1e-2, 0.0, 0.0), 1), None)
    ((batch,),) = arrange(store, np.array([index]), RowLayout("bucketed", 24))
    plain = step.losses(batch)[1]
    assert int(count) == batch.num_targets
    assert float(plain) / batch.num_targets == pytest.approx(float(theirs), rel=1e-6)


def test_dropout_is_on_in_training_only(tiny_config, make_store):
    model = initialize(tiny_config, seed=0)
    apply(model, AdapterSettings("lora", 4, 8.0, 0.5, None, ("*",)), seed=5)
    for layer in model.layers:
        layer.self_attn.q_proj.lora_b = mx.ones_like(layer.self_attn.q_proj.lora_b)
    inputs = mx.array([[1, 5, 7]])
    assert isinstance(model.layers[0].self_attn.q_proj.dropout, nn.Dropout)
    model.train()
    assert not mx.array_equal(model(inputs), model(inputs))
    model.eval()
    assert mx.array_equal(model(inputs), model(inputs))
