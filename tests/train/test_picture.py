"""The picture of a run's memory."""

import csv

import pytest
from matplotlib.image import imread

from pipeline.train.checkpoints.series import MACHINE_COLUMNS
from pipeline.train.picture import draw_memory, read_columns
from tests.support.pictures import kept, overlapping


@pytest.fixture
def curve(tmp_path):
    """Write a sawtooth of 40 steps, with a reload every ten."""

    def write(limit_gb):
        path = tmp_path / "machine.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, MACHINE_COLUMNS)
            writer.writeheader()
            for step in range(1, 41):
                row = dict.fromkeys(MACHINE_COLUMNS, 0)
                held = int(2e8 + 5e7 * ((step - 1) % 10))
                row |= {"step": step, "footprint_bytes": held, "reloads": (step - 1) // 10}
                row |= {"memory_limit_bytes": int(limit_gb * 1e9), "reload_above_bytes": 7 * 10**8}
                writer.writerow(row)
        return path

    return write


def test_equal_input_gives_equal_bytes(curve, tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    draw_memory(curve(1.0), first)
    draw_memory(curve(1.0), second)
    assert first.read_bytes() == second.read_bytes()
    assert imread(first).shape[:2] == (352, 990)


def test_bounds_and_reloads_are_to_be_seen(curve, tmp_path):
    """Another limit or threshold gives another picture, also one too high to be drawn to scale."""
    pictures = set()
    for limit in (0.8, 1.0, 20.0, 0.71):
        draw_memory(curve(limit), tmp_path / "c.png")
        pictures.add((tmp_path / "c.png").read_bytes())
    assert len(pictures) == 4


def test_bytes_are_read_as_gigabytes(curve):
    columns = read_columns(curve(1.0))
    assert columns["footprint_bytes"][0] == 0.2
    assert columns["reloads"][-1] == 3


@pytest.mark.parametrize("limit", [0.71, 0.75, 1.0, 20.0])
def test_the_limit_is_a_mark_and_not_the_scale(curve, tmp_path, monkeypatch, limit):
    figures = kept(monkeypatch)
    draw_memory(curve(limit), tmp_path / "c.png")
    (axes,) = figures[0].axes
    assert axes.get_ylim() == (0, pytest.approx(1.2 * 0.65)), "above what was held, from 0"
    assert (axes.get_yscale(), overlapping(figures[0])) == ("linear", [])
    assert f"limit: {limit:.2f} GB" in " ".join(text.get_text() for text in axes.texts)
