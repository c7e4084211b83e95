"""The plan of a training: what it says, on what it depends, and what it refuses."""

import dataclasses
import re

import numpy as np
import pytest

from pipeline.device import mlx_memory
from pipeline.errors import DeviceError
from pipeline.model.network.forward import random_key
from pipeline.train.plan import rehearsal
from pipeline.train.plan.fit import require_fit
from pipeline.train.plan.predict import predict
from pipeline.train.plan.report import GB, make_plan
from tests.support.plans import request_of, write_llama


@pytest.fixture
def folder(tmp_path):
    return write_llama(tmp_path, hidden=64, blocks=2, vocab=512)


def row(rows, name):
    (found,) = [row for row in rows if row.name == name]
    return found


def test_weights_and_optimizer_are_counted_exactly(folder):
    rows = make_plan(request_of(folder, rank=8)).rows
    layers = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 176), (64, 176), (176, 64)]
    base = 512 * 64 + 64 + 2 * (2 * 64 + sum(one * other for one, other in layers))
    adapter = 2 * sum(8 * (one + other) for one, other in layers)
    assert row(rows, "weights").num_bytes == 4 * base
    assert row(rows, "trained weights").num_bytes == 4 * adapter
    assert row(rows, "optimizer").num_bytes == 8 * adapter + 12  # a step and a learning rate


@pytest.mark.parametrize(("name", "size"), [("adam", 8), ("sgd", 4), ("lion", 4), ("muon", 4)])
def test_what_an_optimizer_remembers_is_counted_exactly(folder, name, size):
    rows = make_plan(request_of(folder, optim=name)).rows
    assert (
        row(rows, "optimizer").num_bytes == size * row(rows, "trained weights").num_bytes / 4 + 12
    )
    assert row(rows, "optimizer").arithmetic == f"{name}, {size}.00 bytes a weight"


def test_the_parts_add_up_to_the_peak_of_forward_and_backward(folder):
    plan = make_plan(request_of(folder))
    parts = plan.rows[: [each.name for each in plan.rows].index("peak: forward and backward")]
    total = row(plan.rows, "peak: forward and backward").num_bytes
    assert sum(each.num_bytes for each in parts) == total == plan.peak_bytes
    assert all(each.num_bytes > 0 for each in parts)


def test_recomputation_saves_activations_and_costs_operations(folder):
    kept, recomputed = (make_plan(request_of(folder, checkpoint=flag)) for flag in (False, True))
    assert recomputed.peak_bytes < kept.peak_bytes
    assert row(recomputed.rows, "activations").num_bytes < row(kept.rows, "activations").num_bytes
    assert row(recomputed.rows, "score matrices").num_bytes == 0
    assert recomputed.flops > kept.flops


def test_peaks_grow_with_rows_and_tokens_and_not_with_micro_batches(folder):
    peak = predict(request_of(folder)).peak_bytes
    assert predict(request_of(folder, rows=4)).peak_bytes > 1.7 * peak
    assert predict(request_of(folder, longest=257)).peak_bytes > 1.9 * peak
    more = [predict(request_of(folder, micro=count)).peak_bytes for count in (2, 3, 8)]
    assert len(set(more)) == 1
    assert peak <= more[0] < 1.1 * peak


def test_stored_frozen_blocks_have_weights_and_no_activations_or_operations(tmp_path):
    folder = write_llama(tmp_path, hidden=64, blocks=6, vocab=512)
    asked = {"num_layers": 1, "rows": 4}
    run, stored = (make_plan(request_of(folder, **asked, cached=flag)) for flag in (False, True))
    phase = "peak: frozen blocks"
    assert row(stored.rows, "weights") == row(run.rows, "weights")
    assert stored.flops == run.flops - 4 * 128 * 5 * (2 * 46080 + 2 * 128 * 64)
    assert 0 < stored.peak_bytes - run.peak_bytes <= 4 * 128 * 64 * 4  # what is read is held
    assert row(stored.rows, "weights").num_bytes < row(stored.rows, phase).num_bytes
    assert row(stored.rows, phase).num_bytes < stored.peak_bytes
    assert phase not in [each.name for each in run.rows]


def test_what_is_trained_before_the_blocks_leaves_nothing_to_store(folder):
    for changes in ({"mode": "full"}, {}):
        plans = [make_plan(request_of(folder, **changes, cached=flag)) for flag in (False, True)]
        assert plans[0].rows[:-1] == plans[1].rows[:-1]  # the last one is of this process


def test_operations_are_those_of_the_roofline(folder):
    lora, full = (make_plan(request_of(folder, mode=mode)) for mode in ("lora", "full"))
    tokens, matrices = 2 * 128, 512 * 64 + 2 * (64 * (128 + 64 + 352) + 176 * 64)
    attention = 6 * 2 * 128 * 64
    adapters = 2 * 8 * sum((128, 96, 96, 128, 240, 240, 240)) * 6
    assert lora.flops == tokens * (4 * matrices + attention + adapters)
    assert full.flops == tokens * (6 * matrices + attention)


def test_the_table_shows_every_row_with_its_bytes(folder):
    plan = make_plan(request_of(folder))
    text = plan.table()
    assert len(text.splitlines()) == len(plan.rows)
    assert re.search(rf"^peak +{plan.peak_bytes / GB:.3f} GB  forward and backward$", text, re.M)
    longer = plan.table(alternatives=True).splitlines()
    names = [line.split("  ")[0] for line in longer[len(plan.rows) :]]
    assert names == [row.name for row in plan.alternatives]
    assert "with attention without score matrices" in names


def test_alternatives_take_less(folder):
    plan = make_plan(request_of(folder, validation=8192))
    step, *others = plan.alternatives
    assert step.num_bytes < plan.peak_bytes
    assert all(other.num_bytes < step.num_bytes for other in others)


def test_the_footprint_counts_cache_and_process(folder):
    plan = make_plan(request_of(folder))
    assert plan.cache_bytes == 32 << 20 or plan.cache_bytes == plan.peak_bytes
    assert 50e6 < plan.process_bytes < 5e9
    assert plan.footprint_bytes == plan.peak_bytes + plan.cache_bytes + plan.process_bytes


def test_planning_leaves_memory_and_random_numbers_alone(folder):
    before, key = mlx_memory().active_bytes, np.array(random_key())
    make_plan(request_of(folder, dropout=0.1))
    assert np.array_equal(np.array(random_key()), key)
    assert mlx_memory().active_bytes - before < 10_000


def test_a_graph_that_cannot_be_traced_is_estimated_and_said(folder, monkeypatch):
    def refuse(*_):
        raise ValueError("Unable to get state for primitive New")

    traced = make_plan(request_of(folder))
    monkeypatch.setattr(rehearsal, "trace", refuse)
    plan = make_plan(request_of(folder))
    assert plan.table().endswith("by formula: Unable to get state for primitive New")
    assert 0.5 < plan.peak_bytes / traced.peak_bytes < 2


# What is refused


def test_what_fits_passes(folder):
    plan = make_plan(request_of(folder))
    assert require_fit(plan, plan.footprint_bytes, 0) is None


def refusal(plan, limit_bytes, others_bytes=0):
    with pytest.raises(DeviceError) as refused:
        require_fit(plan, limit_bytes, others_bytes)
    return str(refused.value)


def test_what_does_not_fit_is_refused_with_the_numbers(folder):
    plan = make_plan(request_of(folder, rows=8))
    text = refusal(plan, plan.footprint_bytes - 1)
    footprint, peak = f"{plan.footprint_bytes / GB:.3f} GB", f"{plan.peak_bytes / GB:.3f} GB"
    assert text.startswith(f"The training needs {footprint}, and {footprint} are allowed")
    assert f"At its peak (forward and backward) MLX holds {peak}; it may keep" in text


def test_what_other_processes_hold_is_named(folder):
    plan = make_plan(request_of(folder))
    text = refusal(plan, plan.footprint_bytes + GB, GB + 10**7)
    room, limit = ((plan.footprint_bytes + held) / GB for held in (-(10**7), GB))
    assert (
        f"and {room:.3f} GB are allowed: {limit:.3f} GB (train.memory_limit_gb), less 1.010 GB "
        "that the supervisor holds." in text
    )
    assert "and 0.000 GB are allowed: 0.500 GB" in refusal(plan, GB // 2, GB)


def test_what_is_freed_is_no_more_than_what_was_held(folder):
    plan = make_plan(request_of(folder, rows=8, micro=4))
    small = plan.cache_bytes // 4
    assert plan.footprint_at(small) == 2 * small + plan.process_bytes
    assert plan.footprint_at(plan.peak_bytes) == plan.footprint_bytes


def test_a_smaller_step_is_proposed_where_nothing_else_is_enough(folder):
    """One document in one micro-batch needs no sum of gradients."""
    request = request_of(folder, mode="full", rows=1, micro=4, longest=100)
    alone = dataclasses.replace(request, batch_size=1, grad_accumulation_steps=1)
    plan, target = make_plan(request), predict(alone).peak_bytes
    assert target < plan.peak_bytes
    text = refusal(plan, plan.footprint_at(target))
    assert text.endswith(
        "Only a step of fewer documents makes it fit, which changes the training:\n"
        f"  train.batch_size=1 train.grad_accumulation_steps=1: {target / GB:.3f} GB"
    )


def test_batches_of_the_validation_become_smaller_with_micro_batches(folder):
    request = request_of(folder, rows=16, validation=16 * 129)
    plan = make_plan(request)
    large = dataclasses.replace(request, grad_accumulation_steps=16)
    target = predict(dataclasses.replace(large, validation_batch_tokens=129)).peak_bytes
    assert target < predict(large).peak_bytes  # the validation would be the peak
    text = refusal(plan, plan.footprint_at(target))
    assert f"  train.grad_accumulation_steps=16: {target / GB:.3f} GB" in text
    floor = make_plan(dataclasses.replace(request, least_validation_tokens=16 * 129))
    assert "grad_accumulation_steps=16: " not in refusal(floor, plan.footprint_at(target))


def test_float32_copies_are_counted_and_may_be_left_out(folder):
    asked = {"mode": "full", "dtype": "bfloat16", "longest": 17}
    with_copies, without = (
        make_plan(request_of(folder, **asked, float32_copy=flag)) for flag in (True, False)
    )
    trained = row(with_copies.rows, "trained weights").num_bytes // 2
    for plan, size in ((with_copies, 12), (without, 8)):
        assert row(plan.rows, "optimizer").num_bytes == size * trained + 12
        assert row(plan.rows, "optimizer").arithmetic == f"adamw, {size}.00 bytes a weight"
    text = refusal(with_copies, with_copies.footprint_at(without.peak_bytes))
    assert f"  optim.float32_copy=false: {without.peak_bytes / GB:.3f} GB" in text


def test_each_kind_of_change_is_proposed_at_its_smallest(folder):
    request = request_of(folder, rows=8)
    plan = make_plan(request)
    target = predict(dataclasses.replace(request, grad_accumulation_steps=2)).peak_bytes
    text = refusal(plan, plan.footprint_at(target))
    assert f"  train.grad_accumulation_steps=2: {target / GB:.3f} GB\n" in text
    assert "  train.grad_checkpoint=true" in text
    assert "  data.max_seq_len=64: " in text
    assert "model.source=..." not in text  # a small base is not what takes the memory


def test_changes_are_joined_where_one_is_not_enough(folder):
    request = request_of(folder, rows=2, longest=257)
    least = dataclasses.replace(request, grad_accumulation_steps=2, grad_checkpoint=True)
    plan, target = make_plan(request), predict(least).peak_bytes
    text = refusal(plan, plan.footprint_at(target))
    assert "  train.grad_checkpoint=true train.grad_accumulation_steps=2: " in text


def test_nothing_is_promised_where_nothing_helps(folder):
    text = refusal(make_plan(request_of(folder)), 1000)
    assert text.endswith(
        "Nothing that can be set makes it fit: use a smaller model or more memory."
    )


def test_one_thread_is_proposed_where_that_is_enough(folder):
    request = request_of(folder, mode="full", longest=17, streams=2)
    plan = make_plan(request)
    target = predict(dataclasses.replace(request, num_streams=1)).peak_bytes
    assert target < plan.peak_bytes
    text = refusal(plan, plan.footprint_at(target))
    assert f"  OPENBLAS_NUM_THREADS=1: {target / GB:.3f} GB\n" in text
    alone = make_plan(request_of(folder, mode="full", longest=17))
    assert "OPENBLAS_NUM_THREADS" not in refusal(alone, alone.footprint_bytes - 1)


def test_a_model_that_cannot_be_traced_counts_a_gradient_for_each_part(folder, monkeypatch):
    def refuse(*_):
        raise ValueError("no graph")

    monkeypatch.setattr("pipeline.train.plan.rehearsal.trace", refuse)
    alone, beside = (
        predict(request_of(folder, mode="full", rows=4, streams=streams)) for streams in (1, 2)
    )
    assert beside.peak_bytes - alone.peak_bytes == alone.trainable_bytes
