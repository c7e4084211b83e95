"""The metrics of a training: which file each figure is in."""

import json

import pytest

from pipeline.config.stage_paths import Paths
from pipeline.train import summary as module
from pipeline.train.summary import machine_summary, write_metrics

RESULTS = {"val_loss": 0.5, "best_val_loss": 0.25, "learning_rate": 1e-3, "num_steps": 3}
MACHINE = {
    "targets_per_second": 90.0,
    "tokens_per_second": 120.0,
    "wall_seconds": 7.5,
    "reloads": 2,
    "recoveries": 1,
}
SUMMARY = {"validation_loss": 0.5, "best_validation_loss": 0.25, "learning_rate": 1e-3}


def written(folder):
    return {path.stem: json.loads(path.read_text()) for path in (folder / "metrics").iterdir()}


@pytest.mark.parametrize("share", [{}, {"conflicts_primary_share": 0.75}])
def test_by_hand_a_training_writes_what_it_knows_of_the_summary(tmp_path, share):
    assert write_metrics(Paths(tmp_path), RESULTS | share | MACHINE) == RESULTS | share
    found = written(tmp_path)
    assert found["train"] == RESULTS | share
    assert found["summary"] == SUMMARY | share
    rest = found["train_machine"]
    assert rest.keys() == {
        "recoveries",
        "stage_seconds",
        "peak_footprint_bytes",
        "peak_resident_bytes",
    }
    assert found["machine"]["peak_gb"] == rest["peak_footprint_bytes"] / 1e9 > 0


def test_under_dvc_the_summary_is_left_to_validate(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOT", tmp_path.resolve())
    write_metrics(Paths(tmp_path), RESULTS | MACHINE)
    assert written(tmp_path).keys() == {"train", "machine", "train_machine"}


def test_the_figures_of_the_machine_are_five():
    assert machine_summary({**MACHINE, "peak_footprint_bytes": 2_500_000_000}) == {
        "targets_per_second": 90.0,
        "peak_gb": 2.5,
        "seconds": 7.5,
        "tokens_per_second": 120.0,
        "reloads": 2,
    }
