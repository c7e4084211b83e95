"""Measurements apart from other programs: disk, preparation and reloads."""

import pytest

from pipeline.benchmark.peers import system
from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.programs import OURS
from pipeline.benchmark.peers.results import ratio
from pipeline.errors import DataError
from tests.support.small_peers import lay_out_rows, set_up


@pytest.fixture
def comparison(tmp_path):
    (tmp_path / "rows").mkdir()
    return set_up(lay_out_rows(tmp_path / "rows"), tmp_path / "work", part="surroundings")


def test_the_disk_and_the_preparation_are_measured(comparison, monkeypatch):
    monkeypatch.setattr(system, "PREPARED_BYTES", 20_000)
    system.disk(comparison)
    system.preparation(comparison)
    for figure, other in (
        ("write_bytes_per_second", "dd"),
        ("prepare_mb_per_second", "encode_batch"),
    ):
        assert ratio("surroundings", figure, OURS, other)(comparison.results).value > 0


def test_what_dd_cannot_write_is_not_measured(tmp_path, monkeypatch):
    with pytest.raises(NotMeasured, match=r"dd ended with exit status 1: .*No such file"):
        system.dd_rate(tmp_path / "nowhere/zeros", 1)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotMeasured, match="there is no dd on this machine"):
        system.dd_rate(tmp_path / "zeros", 1)


@pytest.mark.parametrize("error", [NotMeasured, DataError])
def test_one_measurement_that_fails_leaves_the_others(comparison, monkeypatch, error):
    done, kept = [], []

    def fails(comparison):
        raise error("full")

    def works(comparison):
        done.append(comparison)

    monkeypatch.setattr(system, "disk", fails)
    for name in ("preparation", "reloads"):
        monkeypatch.setattr(system, name, works)
    comparison.keep = lambda: kept.append(len(done))
    system.measure_system(comparison)
    assert len(done) == 2
    assert kept == [0, 1, 2]
    with pytest.raises(NotMeasured, match="full"):
        ratio("surroundings", "write_bytes_per_second", OURS, "dd")(comparison.results)
