"""The outputs of the benchmark: a table of figures, and a picture of bars."""

from pipeline.benchmark.bars import bars_of, draw, write_table
from pipeline.benchmark.peers.results import COLUMNS

ROWS = [
    ("all_blocks", "targets_per_second", "ours", 1, 20.0),
    ("all_blocks", "targets_per_second", "mlx_lm", 1, 10.0),
    ("all_blocks", "targets_per_second", "ours", 2, 22.0),
    ("head", "peak_bytes", "ours", 1, 5.0),
]


def test_values_are_gathered_by_part_and_program():
    found = bars_of(ROWS, "targets_per_second")
    assert found == {"all_blocks: ours": [20.0, 22.0], "all_blocks: mlx_lm": [10.0]}


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
