"""Gradients of every way of training are those of differences of the loss.

Central differences at two distances, extrapolated (Richardson 1911), over sums of float64.
"""

import numpy as np
import pytest

from pipeline.data.batches import RowLayout, arrange
from pipeline.device import mx, tree_unflatten
from pipeline.model.network.adapters import apply
from pipeline.model.network.forward import forward
from pipeline.model.network.tree import named_arrays, trainable_arrays
from pipeline.model.scratch import initialize
from pipeline.optim.optimizer import OptimSettings, make_optimizer
from pipeline.train.plan.trace import trace
from pipeline.train.step import TrainStep
from tests.support.modes import MODES, settings_of
from tests.support.plain import token_losses

NUM_DIRECTIONS = 2
CHANGE_NATS, LONGEST_STEP = 0.1, 0.05
"""How far a weight is moved: far enough for a change of the loss that float32 can show."""
TOLERANCE = 3e-4


class RecordedNorms:
    """The norms that DoRA divides by, held as they were: it takes them for constants.

    (arXiv 2402.09353 §4.3: no gradient goes through them.)
    """

    def __init__(self, monkeypatch):
        self.true, self.kept, self.place = mx.linalg.norm, [], None
        monkeypatch.setattr(mx.linalg, "norm", self)

    def __call__(self, *arguments, **options):
        if self.place is None:
            self.kept.append(self.true(*arguments, **options))
            return self.kept[-1]
        self.place += 1
        return self.kept[(self.place - 1) % len(self.kept)]


def moved_away(model):
    """Take weights away from where they start: there the gradient of `lora_a` is zero."""
    key = mx.random.key(4)
    for name, value in sorted(trainable_arrays(model).items()):
        key, own = mx.random.split(key)
        moved = value + 0.05 * mx.random.normal(value.shape, key=own)
        model.load_weights([(name, moved)], strict=False)
    mx.eval(model.parameters())


def prepared(config, kind, store, tied):
    model = initialize({**config, "tie_word_embeddings": tied}, seed=0)
    model.model.norm.weight *= 2  # as large as in a trained model: differences need slopes
    apply(model, settings_of(kind), seed=1)
    moved_away(model)
    step = TrainStep(model, make_optimizer(OptimSettings(1e-2, 0.0, 0.0), 1), None)
    ((batch,),) = arrange(store, np.arange(6), RowLayout("bucketed", 24))
    return model, step, batch


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", MODES)
def test_gradients_are_those_of_differences(tiny_config, make_store, monkeypatch, kind, tied):
    model, step, batch = prepared(tiny_config, kind, make_store(), tied)
    norms = RecordedNorms(monkeypatch) if kind.startswith("dora") else None
    _, tree = step.loss_and_grad(batch)
    gradients = named_arrays(tree)
    mx.eval(gradients)
    start = trainable_arrays(model)

    def loss_at(name, value):
        if norms:
            norms.place = 0
        model.update(tree_unflatten([(name, value)]))
        losses = token_losses(forward(model, mx.array(batch.inputs)), mx.array(batch.targets))
        model.update(tree_unflatten([(name, start[name])]))
        return (np.array(losses, dtype=np.float64) * batch.loss_mask).sum()

    def slope(name, direction, size):
        moved = (start[name] + mx.array(sign * size * direction) for sign in (1, -1))
        one, other = (loss_at(name, value.astype(mx.float32)) for value in moved)
        return (one - other) / (2 * size)

    for name, direction, wanted in directions(gradients):
        size = min(LONGEST_STEP, CHANGE_NATS / wanted)
        found = (4 * slope(name, direction, size) - slope(name, direction, 2 * size)) / 3
        assert found == pytest.approx(wanted, rel=TOLERANCE), (name, found, wanted)


def directions(gradients):
    """Give directions for each tensor, and what the gradient says of them.

    Half of each is the gradient itself: by chance alone a loss changes little, as noise does.
    """
    generator = np.random.default_rng(7)
    for name, value in gradients.items():
        gradient = np.array(value, dtype=np.float32)
        for _ in range(NUM_DIRECTIONS):
            noise = generator.normal(size=gradient.shape)
            direction = gradient / np.linalg.norm(gradient) + noise / np.linalg.norm(noise)
            direction = direction.astype(np.float32)
            yield name, direction, float((gradient.astype(np.float64) * direction).sum())


def count(nodes, primitive):
    return sum(node.primitive == primitive for node in nodes)


@pytest.mark.parametrize("tied", [True, False])
def test_no_block_is_differentiated_where_only_the_head_is_trained(tiny_config, make_store, tied):
    """The graph of the gradient has two products more than that of the loss: those of the head."""
    model, step, batch = prepared(tiny_config, "head", make_store(), tied)
    names, weights = zip(*named_arrays(model.parameters()).items(), strict=True)

    def put(values):
        model.update(tree_unflatten(list(zip(names, values, strict=True))))

    def forward(*values):
        put(values)
        return [step.losses(batch)[1]]

    def backward(*values):
        put(values)
        (_, loss, _), tree = step.loss_and_grad(batch)
        return [loss, *named_arrays(tree).values()]

    graphs = [trace(function, weights) for function in (forward, backward)]
    put(weights)
    products = [count(graph.nodes, "Matmul") for graph in graphs]
    assert products[1] == products[0] + 2
    for primitive in ("Sigmoid", "Softmax"):  # nor is any exponential computed again
        assert count(graphs[1].nodes, primitive) == count(graphs[0].nodes, primitive) > 1
