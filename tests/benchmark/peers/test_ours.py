"""The program of Tidewheel."""

import dataclasses

import pytest

from pipeline.benchmark.peers.ours import train
from pipeline.errors import ModelError
from tests.support.small_peers import lay_out_rows, set_up


@pytest.fixture
def job(tmp_path):
    (tmp_path / "rows").mkdir()
    comparison = set_up(lay_out_rows(tmp_path / "rows"), tmp_path / "work")
    return comparison.job(comparison.material, 4, num_layers=1)


@pytest.mark.parametrize("is_cached", [False, True])
def test_each_step_is_timed_and_adapters_are_saved(job, tmp_path, is_cached):
    job = dataclasses.replace(
        job, output=str(tmp_path / "run"), steps_per_snapshot=2, is_cached=is_cached
    )
    outcome = train(job)
    assert len(outcome.seconds) == len(outcome.num_targets) == 4
    pairs = zip(outcome.facts["gradient_seconds"], outcome.seconds, strict=True)
    assert all(0 < gradient < step for gradient, step in pairs)
    assert 0 < outcome.facts["cached_passes"] < outcome.facts["passes"]
    assert min(outcome.facts["floor_bytes"], outcome.peak_bytes) > 0
    snapshots = sorted((tmp_path / "run").glob("step-*/adapters.safetensors"))
    assert [path.parent.name for path in snapshots] == ["step-00000002", "step-00000004"]
    assert (tmp_path / "run/activations").exists() is is_cached


def test_without_a_frozen_block_there_is_nothing_to_store(job, tmp_path):
    job = dataclasses.replace(job, output=str(tmp_path / "run"), num_layers=None, is_cached=True)
    message = r"model: there is no frozen block .*\n.*peers\.model\.num_hidden_layers="
    with pytest.raises(ModelError, match=message):
        train(job)
