"""Series survive kills and give back the same bits."""

import math

import pytest

from pipeline.train.series import Series


@pytest.fixture
def series(tmp_path):
    series = Series(tmp_path / "x.csv", ("step", "train_loss"))
    series.resume_after(0)
    for step in (1, 2, 3):
        series.append({"step": step, "train_loss": 0.1 + step / 3})
    series.close()
    return series


def test_floats_come_back_to_the_bit(series):
    assert [float(row["train_loss"]) for row in series.rows()] == [
        0.1 + step / 3 for step in (1, 2, 3)
    ]


def test_rows_after_the_checkpoint_are_forgotten(series):
    series.resume_after(2)
    series.append({"step": 3, "train_loss": 9.0})
    series.close()
    assert [row["step"] for row in series.rows()] == ["1", "2", "3"]
    assert series.rows()[-1]["train_loss"] == "9.0"


def test_a_line_cut_short_by_a_kill_does_not_count(series):
    with series.path.open("a") as file:
        file.write("4,0.")
    assert len(series.rows()) == 3
    series.resume_after(3)
    series.close()
    assert series.path.read_text().endswith("\n")


def test_nan_is_written_and_read(series):
    series.resume_after(3)
    series.append({"step": 4, "train_loss": math.nan})
    series.close()
    assert math.isnan(float(series.rows()[-1]["train_loss"]))
