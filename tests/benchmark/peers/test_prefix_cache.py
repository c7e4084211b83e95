"""Parts of the comparison that measure what storing the outputs of frozen blocks gains."""

import pytest

from pipeline.benchmark.peers import prefix_cache
from stages.params import composed
from tests.support.small_peers import lay_out_rows, set_up


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "rows").mkdir()
    return lay_out_rows(tmp_path / "rows")


def test_the_sweep_differs_in_its_cache_alone(rows, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(prefix_cache, "run_train_stage", lambda *call: calls.append(call[2]))
    comparison, kept = (
        set_up(rows, tmp_path / "work", "benchmark.peers.sweep_rows=8", part="sweep"),
        [],
    )
    comparison.keep = lambda: kept.append(len(calls))
    prefix_cache.sweep(comparison)
    assert kept == [1, 2]
    without, with_cache = calls
    assert without == [*with_cache, "train.prefix_cache_gb=0"]
    assert "lora.rank=4,8,16" in without
    assert "train.reload_interval_steps=0,2" in without  # an epoch
    assert "train.num_steps=6" in without
    composed([item.split(",")[0] for item in without[3:] if "targets" not in item])
