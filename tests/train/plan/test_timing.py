"""The time of a step, from the time of the last blocks of a model without weights."""

import dataclasses
import time

import pytest

from pipeline.device import mx
from pipeline.model.blueprint import blueprint
from pipeline.model.network.adapters import attach
from pipeline.model.network.tree import blocks, named_arrays
from pipeline.model.source.folder import read_config
from pipeline.optim.optimizer import make_optimizer
from pipeline.train.plan import timing
from pipeline.train.plan.predict import blank_batch
from pipeline.train.plan.report import make_plan
from pipeline.train.plan.timing import Rows, Seconds, Timing, cut, fill, time_model, timed_request
from pipeline.train.step import TrainStep
from tests.support.plans import request_of, write_llama

ONE, BLOCK = Seconds(step=1.0, forward=0.25), Seconds(step=0.5, forward=0.125)


def timed(tmp_path, **changes):
    """Make the timing of a model of six blocks by hand."""
    folder = write_llama(tmp_path, blocks=6)
    shape = make_plan(request_of(folder, **changes)).shape
    return Timing(shape, False, Rows(2, 128, 256), ONE, BLOCK)


def test_each_block_adds_its_time(tmp_path):
    found = timed(tmp_path)
    rows = Rows(2, 128, 256)
    assert found.step_seconds(rows, is_cached=True) == 1.0 + 5 * 0.5
    assert found.forward_seconds(rows) == 0.25 + 5 * 0.125


def test_frozen_blocks_are_only_run_and_not_even_that_where_they_are_stored(tmp_path):
    found, rows = timed(tmp_path, num_layers=2), Rows(2, 128, 256)
    assert found.step_seconds(rows, is_cached=False) == 1.0 + 0.5 + 4 * 0.125
    assert found.step_seconds(rows, is_cached=True) == 1.0 + 0.5
    head = timed(tmp_path, mode="head")
    assert head.step_seconds(rows, is_cached=False) == 1.0 + 5 * 0.125


def test_more_and_wider_rows_take_longer(tmp_path):
    found = timed(tmp_path)
    once = found.step_seconds(Rows(2, 128, 256), is_cached=False)
    assert found.step_seconds(Rows(6, 128, 768), is_cached=False) == pytest.approx(3 * once)
    wide = found.step_seconds(Rows(2, 512, 1024), is_cached=False)
    assert 4 * once < wide < 8 * once


def test_no_more_is_timed_than_tells_the_speed(tmp_path):
    request = request_of(write_llama(tmp_path), rows=8, micro=4, longest=4096, streams=2)
    asked = timed_request(request, Rows(32, 2000.4, 64_000))
    assert (asked.rows, asked.width, asked.num_micro_batches) == (2, 512, 1)
    short = timed_request(request, Rows(32, 47.4, 1500))
    assert (short.rows, short.width) == (8, 48)
    single = dataclasses.replace(request, batch_size=4)
    assert timed_request(single, Rows(4, 47.4, 200)).rows == 1


@pytest.mark.parametrize("changes", [{}, {"mode": "full"}, {"checkpoint": True}, {"streams": 2}])
def test_a_model_is_timed_by_its_last_blocks(tmp_path, changes):
    request = request_of(write_llama(tmp_path, blocks=3), rows=2, longest=65, **changes)
    shape = make_plan(request).shape
    found = time_model(request, shape, Rows(2, 64, 128), 0.5)
    assert found.rows == Rows(2, 64, 128)
    assert found.one.step > found.one.forward > 0
    assert found.block.step >= 0


def test_a_cut_model_has_the_last_blocks_and_computes(tmp_path):
    request = request_of(write_llama(tmp_path, blocks=5), num_layers=1)
    model = blueprint(read_config(request.folder), "float32")
    attach(model, request.adapter)
    last = blocks(model)[-2:]
    cut(model, 2)
    assert blocks(model) == last
    fill(model)
    assert all(
        float(value.max()) == pytest.approx(0.01)
        for value in named_arrays(model.parameters()).values()
    )
    assert bool(mx.isfinite(model(mx.array([[1, 2, 3]]))).all())


def test_a_sparse_batch_has_its_share_of_targets_and_one_at_least(tmp_path):
    batch = blank_batch(request_of(write_llama(tmp_path), longest=65), 2)
    assert timing.sparse(batch, 0.25).num_targets == 2 * 16
    assert timing.sparse(batch, 0.0).num_targets == 2


def test_what_cannot_be_timed_has_no_time(tmp_path, monkeypatch):
    request = request_of(write_llama(tmp_path))
    shape = make_plan(request).shape
    with monkeypatch.context() as patch:
        patch.setattr(timing, "available_memory_bytes", lambda: 1000)
        assert time_model(request, shape, Rows(2, 64, 128), 1.0) is None
    monkeypatch.setattr(timing, "cut", lambda *_: [][0])
    assert time_model(request, shape, Rows(2, 64, 128), 1.0) is None


@pytest.mark.exhaustive
@pytest.mark.parametrize("changes", [{}, {"mode": "full"}, {"num_layers": 3}])
def test_the_time_is_that_of_the_whole_model(tmp_path, changes):
    request = request_of(write_llama(tmp_path, hidden=256, blocks=8), rows=4, **changes)
    found = time_model(request, make_plan(request).shape, Rows(4, 128, 512), 1.0)
    model = blueprint(read_config(request.folder), "float32")
    attach(model, request.adapter)
    fill(model)
    optimizer = make_optimizer(request.optim, 1)
    optimizer.init(model.trainable_parameters())
    step, batch = TrainStep(model, optimizer, 1.0, is_proven=False), blank_batch(request, 4)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        step([(batch,)])
        seconds.append(time.perf_counter() - started)
    predicted = found.step_seconds(Rows(4, 128, 512), is_cached=False)
    print(f"predicted {predicted:.3f} s, measured {min(seconds):.3f} s")
    assert predicted == pytest.approx(min(seconds), rel=0.25)
