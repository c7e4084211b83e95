"""Series survive kills and give back the same bits."""

import errno
import math
import os

import pytest

from pipeline.errors import CheckpointError
from pipeline.train.checkpoints import series as module
from pipeline.train.checkpoints.series import (
    MACHINE_COLUMNS,
    MACHINE_METRICS,
    RESULT_COLUMNS,
    Series,
    split_metrics,
)


@pytest.fixture
def series(tmp_path):
    series = Series(tmp_path / "x.csv", ("step", "train_loss"))
    series.resume_after(0)
    for step in (1, 2, 3):
        series.append({"step": step, "train_loss": 0.1 + step / 3})
    series.sync()
    return series


def test_floats_come_back_to_the_bit(series):
    assert [float(row["train_loss"]) for row in series.rows()] == [
        0.1 + step / 3 for step in (1, 2, 3)
    ]


def test_rows_after_the_checkpoint_are_forgotten(series):
    series.resume_after(2)
    series.append({"step": 3, "train_loss": 9.0})
    series.sync()
    assert [row["step"] for row in series.rows()] == ["1", "2", "3"]
    assert series.rows()[-1]["train_loss"] == "9.0"


def test_a_line_cut_short_by_a_kill_does_not_count(series):
    with series.path.open("a") as file:
        file.write("4,0.")
    assert len(series.rows()) == 3
    series.resume_after(3)
    series.sync()
    assert series.path.read_text().endswith("\n")


def test_nan_is_written_and_read(series):
    series.resume_after(3)
    series.append({"step": 4, "train_loss": math.nan})
    series.sync()
    assert math.isnan(float(series.rows()[-1]["train_loss"]))


def test_what_is_not_known_is_left_empty(series):
    series.append({"step": 4, "train_loss": None})
    series.sync()
    assert series.rows()[-1] == {"step": "4", "train_loss": ""}


@pytest.mark.parametrize(
    "tail",
    [b"\0" * 9, b"\0\0\0\n4,0.5\n", b"4\n", b"4,0.5,7\n", b"\xff\xfe,0.5\n", b",0.5\n", b"4,0."],
)
def test_what_a_power_loss_leaves_at_the_end_does_not_count(series, tail):
    with series.path.open("ab") as file:
        file.write(tail)
    assert [row["step"] for row in series.rows()] == ["1", "2", "3"]
    series.resume_after(9)
    assert len(series.path.read_bytes().splitlines()) == 4


def test_rows_that_were_not_written_are_written_later_into_a_new_file(series, monkeypatch):
    series.resume_after(3)
    durable, inode = series.path.read_bytes(), series.path.stat().st_ino

    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    series.append({"step": 4, "train_loss": 0.5})
    with monkeypatch.context() as context:
        context.setattr(module.os, "fsync", fail)
        for _ in range(2):
            with pytest.raises(CheckpointError, match=r"x.csv: 1 lines were not written .*Input/"):
                series.sync()
    os.truncate(series.path, len(durable))  # the disk never got them
    series.append({"step": 5, "train_loss": 0.25})
    series.sync()
    assert [row["step"] for row in series.rows()] == ["1", "2", "3", "4", "5"]
    assert series.path.stat().st_ino != inode


def test_a_series_cut_back_is_durable_under_its_name(series, monkeypatch):
    synced = []
    monkeypatch.setattr(module, "sync_folder", synced.append)
    series.resume_after(2)
    series.append({"step": 3, "train_loss": 0.5})
    series.sync()
    assert synced == [series.path.parent]


def test_a_series_whose_file_is_gone_says_so(tmp_path):
    series = Series(tmp_path / "gone/x.csv", ("step",))
    series.resume_after(0)
    series.path.unlink()
    series.append({"step": 1})
    with pytest.raises(CheckpointError, match=r"gone/x.csv: 1 lines were not written .*No such"):
        series.sync()


def test_metrics_of_the_machine_are_kept_apart():
    metrics = {"val_loss": 0.5, "reloads": 2, "prefix": {"seconds": 1.5}, "num_steps": 3}
    results, machine = split_metrics(metrics)
    assert results == {"val_loss": 0.5, "num_steps": 3}
    assert machine == {"reloads": 2, "prefix": {"seconds": 1.5}}
    assert not {*MACHINE_COLUMNS, *MACHINE_METRICS} & {*RESULT_COLUMNS[1:], *P2_METRICS}


P2_METRICS = ("train_loss", "val_loss", "best_step", "num_tokens", "skipped_steps")
