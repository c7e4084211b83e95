"""The outputs of the benchmark: a table of figures, and a picture of bars."""

import pytest

from pipeline.benchmark.bars import bars_of, draw, write_table
from pipeline.benchmark.peers.programs import PROGRAMS
from pipeline.benchmark.peers.results import COLUMNS
from tests.support.pictures import kept, overlapping, texts_of

ROWS = [
    ("all_blocks", "targets_per_second", "ours", 1, 20.0),
    ("all_blocks", "targets_per_second", "mlx_lm", 1, 10.0),
    ("all_blocks", "targets_per_second", "ours", 2, 22.0),
    ("head", "peak_bytes", "ours", 1, 5e8),
]
ALONE = [
    ("alone", "tokens_per_second", "ours", 1, 17467.2),
    ("alone", "tokens_per_second", "machine", 1, 91234.5),
]
LARGE = [
    (part, figure, program, 1, value * number)
    for figure, value in (("targets_per_second", 1235.0), ("peak_bytes", 1.2345e9))
    for part in ("all_blocks", "large_vocabulary")
    for number, program in enumerate(PROGRAMS, 1)
]


def test_values_are_gathered_by_part_and_program_and_bytes_become_gb():
    found = bars_of(ROWS, "targets_per_second")
    assert found == {"all blocks: Tidewheel": [20.0, 22.0], "all blocks: mlx-lm": [10.0]}
    assert bars_of(ROWS, "peak_bytes") == {"head: Tidewheel": [0.5]}
    assert list(bars_of(ALONE, "tokens_per_second")) == ["Tidewheel", "bound of this machine"]


def test_a_table_has_every_figure_of_every_round(tmp_path):
    write_table(tmp_path / "peers.csv", ROWS)
    lines = (tmp_path / "peers.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1] == "all_blocks,targets_per_second,ours,1,20.0"
    assert len(lines) == 5


def test_equal_rows_give_equal_pictures_and_no_rows_an_empty_one(tmp_path):
    for name, rows in (("one.png", ROWS), ("two.png", ROWS), ("none.png", [])):
        draw(tmp_path / name, rows)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "none.png").read_bytes() != (tmp_path / "one.png").read_bytes()


@pytest.mark.parametrize("rows", [ROWS, ALONE, LARGE, []])
def test_bars_begin_at_0_with_their_numbers_and_nothing_overlaps(rows, tmp_path, monkeypatch):
    figures = kept(monkeypatch)
    draw(tmp_path / "bars.png", rows)
    (figure,) = figures
    assert overlapping(figure) == []
    assert all(axes.get_xlim()[0] == 0 and axes.get_xscale() == "linear" for axes in figure.axes)
    numbers = {"17,470", "91,230"} if rows is ALONE else set()
    assert numbers <= {text.get_text() for text in texts_of(figure)}
