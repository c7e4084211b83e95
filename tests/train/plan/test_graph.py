"""What every stage of the graph takes, before the training begins."""

import dataclasses
import json
import re
from collections import namedtuple

import pytest

from pipeline.errors import DeviceError, StorageError
from pipeline.train.memory import GB
from pipeline.train.plan import graph
from pipeline.train.plan.graph import GraphRequest, plan_graph, require_graph_fits
from pipeline.train.plan.report import make_plan
from tests.support.plans import request_of, write_llama

STAGES = ["weights", "train", "export", "validate", "benchmark"]
DiskUsage = namedtuple("DiskUsage", "total used free")
OTHERS = 50_000_000


def planned(folder, training=None, **changes):
    """Plan all stages; give them by name, and the plan of the training."""
    plan = make_plan(training or request_of(folder))
    asked = GraphRequest(2, 129, 10_000, folder / "run", folder)
    stages = plan_graph(plan, OTHERS, dataclasses.replace(asked, **changes))
    assert [stage.name for stage in stages] == STAGES
    return {stage.name: stage for stage in stages}, plan


@pytest.fixture
def folder(tmp_path):
    return write_llama(tmp_path, hidden=64, blocks=2, vocab=512)


def test_the_training_is_planned_as_before_with_its_supervisor(folder):
    stages, plan = planned(folder)
    assert stages["train"].memory_bytes == plan.footprint_bytes + OTHERS


def test_an_export_takes_what_is_outside_of_blocks_and_one_more_part(tmp_path):
    folder = write_llama(tmp_path, hidden=64, blocks=2, vocab=50_000)
    stages, plan = planned(folder)
    embedding, logits = 50_000 * 64 * 4, 1024 * 50_000 * 4
    found = stages["export"].memory_bytes - plan.process_bytes - plan.cache_bytes
    assert found == embedding + 64 * 4 + logits


def test_an_export_takes_no_more_for_more_blocks(tmp_path):
    held, disk = [], []
    for count in (2, 9):
        stages, plan = planned(write_llama(tmp_path / str(count), blocks=count))
        export = stages["export"]
        held.append(export.memory_bytes - plan.process_bytes - plan.cache_bytes)
        disk.append(export.disk_bytes)
    assert held[0] == held[1]
    assert disk[0] < disk[1]


def test_a_fused_model_takes_disk_only_where_it_is_asked_for(folder):
    plan = make_plan(request_of(folder))
    asked = GraphRequest(2, 129, 10_000, folder, folder)
    plain, fused = (
        plan_graph(plan, 0, dataclasses.replace(asked, is_fused=flag))[2] for flag in (False, True)
    )
    config = json.loads((folder / "config.json").read_text())
    assert fused.disk_bytes - plain.disk_bytes > 4 * config["vocab_size"] * config["hidden_size"]
    assert fused.memory_bytes == plain.memory_bytes


def test_a_stage_that_measures_takes_a_model_and_a_batch(folder):
    stages, plan = planned(folder)
    longer, _ = planned(folder, held_out_longest=1025)
    weights = sum(row.num_bytes for row in plan.rows if row.name in {"weights", "trained weights"})
    found = stages["validate"].memory_bytes
    assert found > plan.process_bytes + weights
    assert longer["validate"].memory_bytes > found


def test_the_benchmark_takes_the_micro_batches_of_the_training(folder):
    at_once, _ = planned(folder, request_of(folder, rows=8))
    divided, _ = planned(folder, request_of(folder, rows=1, micro=8))
    assert divided["benchmark"].memory_bytes < at_once["benchmark"].memory_bytes


def test_checkpoints_that_are_there_need_no_room_again(folder):
    before = planned(folder)[0]["train"].disk_bytes
    (folder / "run").mkdir()
    (folder / "run/arrays").write_bytes(b"0" * 1000)
    assert planned(folder)[0]["train"].disk_bytes == before - 1000


def test_a_stage_that_does_not_fit_is_named_with_what_to_change(folder):
    stages, _ = planned(folder)
    assert require_graph_fits(list(stages.values()), 10**12) is None
    limit = stages["export"].memory_bytes - 1
    with pytest.raises(DeviceError) as caught:
        require_graph_fits([stages["export"]], limit)
    message = str(caught.value)
    assert message.startswith("These stages do not fit, so the training is not started:")
    assert re.search(
        rf"export: {(limit + 1) / GB:.3f} GB of memory are needed \(the process, .*\), and "
        rf"{limit / GB:.3f} GB are allowed \(train\.memory_limit_gb\)\. Give more memory",
        message,
    )
    assert "validate" not in message


def test_all_stages_that_do_not_fit_are_named_at_once(folder):
    stages, _ = planned(folder)
    with pytest.raises(DeviceError) as caught:
        require_graph_fits(list(stages.values()), 1)
    assert [name for name in STAGES if f"{name}: " in str(caught.value)] == STAGES


def test_a_disk_without_room_is_named(folder, monkeypatch):
    stages, _ = planned(folder)
    monkeypatch.setattr(graph.shutil, "disk_usage", lambda path: DiskUsage(1, 1, 1000))
    message = (
        r"train: [\d.]+ MB are needed on the disk of .*/run, and 0\.0 MB are free\. Make room "
        r"there\. Set train\.keep_checkpoints lower"
    )
    with pytest.raises(StorageError, match=message):
        require_graph_fits(list(stages.values()), 10**12)
    with pytest.raises(DeviceError, match=message):
        require_graph_fits(list(stages.values()), 1)
