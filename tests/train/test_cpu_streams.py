"""Batches side by side: they change no update, and give the same bits every time."""

import contextlib
import threading

import numpy as np
import pytest

from pipeline import device
from pipeline.blas.choose import Blas
from pipeline.data.batches import RowLayout, arrange
from pipeline.device import mlx_memory, mx, products_on_one_thread
from pipeline.model.network.adapters import AdapterSettings, apply
from pipeline.model.network.forward import checkpoint_blocks, random_key
from pipeline.model.network.tree import trainable_arrays
from pipeline.model.prefix import find_prefix
from pipeline.model.scratch import initialize
from pipeline.optim.optimizer import OptimSettings, make_optimizer
from pipeline.train.cpu_streams import BatchGraph, CpuStreams
from pipeline.train.prefix.replay import NoPrefix
from pipeline.train.step import TrainStep
from tests.support.modes import MODES, settings_of

DROPOUT = AdapterSettings("lora", 4, 8.0, 0.3, None, ("*",))


def micro_batches_of(store, num_streams, micro=1, arrangement="bucketed", count=24):
    return arrange(
        store,
        np.arange(count),
        RowLayout(arrangement, int(store.lengths.max())),
        num_micro_batches=micro,
        num_streams=num_streams,
    )


def make_step(config, settings, checkpointed=False, cached=False):
    model = initialize(config, seed=0)
    apply(model, settings, seed=5)
    if checkpointed:
        checkpoint_blocks(model)
    optimizer = make_optimizer(OptimSettings(1e-2, 0.0, 0.0), 100)
    optimizer.init(model.trainable_parameters())
    prefix = Recorded(find_prefix(model)) if cached else NoPrefix()
    model.train()
    return TrainStep(model, optimizer, 1.0, prefix=prefix)


class Recorded:
    """Puts activations in place that are computed when they are needed."""

    def __init__(self, prefix):
        self.prefix = prefix

    @contextlib.contextmanager
    def of(self, batch):
        hidden = self.prefix.record(mx.array(batch.inputs))
        mx.eval(hidden)
        with self.prefix.replay(hidden):
            yield


def weights_of(step):
    return {name: np.array(value) for name, value in trainable_arrays(step.model).items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("num_streams", "micro", "arrangement", "checkpointed"),
    [
        (2, 1, "bucketed", False),
        (3, 2, "bucketed", False),
        (2, 1, "packed", False),
        (2, 2, "bucketed", True),
    ],
)
def test_streams_change_no_update(
    tiny_config, make_store, mode, num_streams, micro, arrangement, checkpointed
):
    store, settings = make_store(), settings_of(mode)
    alone = make_step(tiny_config, settings)
    wanted = [alone(micro_batches_of(store, 1)) for _ in range(2)]
    beside = make_step(tiny_config, settings, checkpointed)
    micro_batches = micro_batches_of(store, num_streams, micro, arrangement)
    assert any(len(each) == num_streams for each in micro_batches)
    found = [beside(micro_batches) for _ in range(2)]
    for one, other in zip(wanted, found, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-6)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
        assert other.num_targets == one.num_targets
    others = weights_of(beside)
    for name, value in weights_of(alone).items():
        np.testing.assert_allclose(others[name], value, rtol=2e-3, atol=2e-5, err_msg=name)


def test_streams_go_on_from_the_activations_of_their_own_rows(tiny_config, make_store):
    settings = AdapterSettings("lora", 4, 8.0, 0.0, 1, ("*",))
    store = make_store()
    wanted, found = (
        make_step(tiny_config, settings, cached=True)(micro_batches_of(store, count, count=8))
        for count in (1, 2)
    )
    assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-5)


@pytest.mark.parametrize("settings", [DROPOUT, settings_of("full")], ids=["dropout", "full"])
def test_streams_give_the_same_bits_every_time(tiny_config, make_store, settings):
    store, ends = make_store(), set()
    for _ in range(3):
        mx.random.seed(11)
        step = make_step(tiny_config, settings)
        for _ in range(6):
            step(micro_batches_of(store, 3, micro=2))
        values = [value.tobytes() for value in weights_of(step).values()]
        ends.add((b"".join(values), np.array(random_key()).tobytes()))
    assert len(ends) == 1


def test_each_stream_drops_other_units(tiny_config, make_store):
    store = make_store("same", 1)
    step, seen = make_step(tiny_config, DROPOUT), []
    step.model.layers[0].self_attn.q_proj.lora_b += 0.5
    run = step.graph
    step.graph = lambda *batch: seen.append(run(*batch)) or seen[-1]
    same = arrange(store, np.array([0, 0]), RowLayout("bucketed", 24), num_streams=2)
    step.accumulate(same)
    first, second = (float(graph.loss_sum) for graph in seen)
    assert first != second


class Gate:
    """Lets a number of threads pass only together."""

    def __init__(self, count):
        self.barrier, self.names = threading.Barrier(count, timeout=60), set()

    def __call__(self, graph):
        self.barrier.wait()
        self.names.add(threading.current_thread().name)


def test_graphs_are_evaluated_by_threads_of_their_own(monkeypatch):
    gate = Gate(2)
    monkeypatch.setattr("pipeline.train.cpu_streams.evaluate_graph", gate)
    streams = CpuStreams()
    for _ in range(3):
        streams.evaluate([BatchGraph(mx.array(0.0), {}, []), BatchGraph(mx.array(0.0), {}, [])])
    assert len(gate.names) == 2
    assert streams.stream(0) is streams.stream(0)
    assert streams.stream(0) != streams.stream(1)


def test_what_one_stream_raises_is_raised_when_the_others_are_done(monkeypatch):
    done = threading.Event()

    def fail_or_finish(graph):
        if graph.loss_sum.item():
            raise ValueError("no")
        done.wait(0.2)
        done.set()

    monkeypatch.setattr("pipeline.train.cpu_streams.evaluate_graph", fail_or_finish)
    graphs = [BatchGraph(mx.array(value), {}, []) for value in (1.0, 0.0)]
    with pytest.raises(ValueError, match="no"):
        CpuStreams().evaluate(graphs)
    assert done.is_set()


def test_streams_make_their_products_alone(monkeypatch):
    asked, during = [], []
    monkeypatch.setattr(
        device, "BLAS", Blas("fast", "lib", 2, lambda count: asked.append(count) or count)
    )
    monkeypatch.setattr(
        "pipeline.train.cpu_streams.evaluate_graph", lambda graph: during.append(list(asked))
    )
    CpuStreams().evaluate([BatchGraph(mx.array(0.0), {}, [])] * 2)
    assert during == [[1], [1]]
    assert asked == [1, 2]


def test_graphs_of_streams_are_evaluated_block_by_block(tiny_config, make_store):
    step, store = make_step(tiny_config, settings_of("lora")), make_store()
    blocks = tiny_config["num_hidden_layers"]
    ((alone,),), ((beside, _),) = micro_batches_of(store, 1), micro_batches_of(store, 2)
    assert len(step.graph(beside, 2).order) == len(step.graph(alone).order) + blocks


def test_what_graphs_share_is_evaluated_before_them(tiny_config, make_store):
    step, store = make_step(tiny_config, settings_of("lora")), make_store()
    zeros = mx.zeros(1 << 20)
    mx.eval(zeros)
    step.model.layers[0].self_attn.rope._freqs = zeros + 1  # no parameter; mlx-lm makes them so
    before, seen = mlx_memory().active_bytes, []

    def graph(batch, num_streams):
        seen.append(mlx_memory().active_bytes)
        return BatchGraph(mx.array(0.0), {}, [])

    step.graph = graph
    step.accumulate(micro_batches_of(store, 2))
    assert seen[0] - before >= zeros.nbytes


def test_products_are_made_by_who_asks_within_the_block_only(monkeypatch):
    asked = []
    blas = Blas("fast", "lib", 4, lambda count: asked.append(count) or count)
    monkeypatch.setattr(device, "BLAS", blas)
    assert device.num_cpu_streams() == 4
    with pytest.raises(KeyError), products_on_one_thread():
        assert asked == [1]
        raise KeyError
    assert asked == [1, 4]
    monkeypatch.setattr(device, "BLAS", Blas("fast", "lib", 5))
    assert device.num_cpu_streams() == 1
    monkeypatch.setattr(device, "BLAS", Blas("MLX's own"))
    with products_on_one_thread():
        assert device.num_cpu_streams() == 1
