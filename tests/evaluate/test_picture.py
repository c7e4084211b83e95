"""The picture: drawn from either kind of metrics, the same bytes each time."""

import pytest
from matplotlib.figure import Figure

from pipeline.evaluate.picture import draw, draw_perplexities, draw_shares, read_columns

HELD_OUT = {
    name: {"perplexity": value, "perplexity_low": value - 1, "perplexity_high": value + 1}
    for name, value in (("base", 9.0), ("tuned", 4.0))
}
SHARES = {
    kind: {
        "n": 1200,
        "base": {"share": 0.48, "low": 0.4, "high": 0.6},
        "tuned": {"share": 1.0, "low": 0.9, "high": 1.0},
    }
    for kind in ("contest", "two_primary", "two_authority")
}


@pytest.fixture
def curves(tmp_path):
    (tmp_path / "train.csv").write_text("step,train_loss\n1,3.5\n2,nan\n3,2.5\n")
    (tmp_path / "validation.csv").write_text("step,train_loss,val_loss\n0,,4.0\n3,3.0,2.6\n")
    return tmp_path / "train.csv", tmp_path / "validation.csv"


@pytest.mark.parametrize("metrics", [{"held_out": HELD_OUT}, {"conflicts": SHARES}])
def test_the_same_numbers_give_the_same_picture(curves, tmp_path, metrics):
    for name in ("a.png", "b.png"):
        draw(*curves, metrics, tmp_path / name)
    picture = (tmp_path / "a.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert picture == (tmp_path / "b.png").read_bytes()


def test_other_numbers_give_another_picture(curves, tmp_path):
    draw(*curves, {"held_out": HELD_OUT}, tmp_path / "a.png")
    curves[0].write_text("step,train_loss\n1,3.5\n2,3.0\n3,1.5\n")
    draw(*curves, {"held_out": HELD_OUT}, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_bar_without_an_interval_is_drawn_and_fits():
    unknown = {"perplexity_low": None, "perplexity_high": None}
    axes = Figure().subplots()
    draw_perplexities(axes, {name: part | unknown for name, part in HELD_OUT.items()})
    assert [text.get_text() for text in axes.texts] == ["9", "4"]
    assert axes.get_ylim() == (0, pytest.approx(9 * 1.15))


def test_missing_numbers_are_not_drawn(curves):
    columns = read_columns(curves[1])
    assert columns["val_loss"] == [4.0, 2.6]
    assert columns["train_loss"][0] != columns["train_loss"][0]


def test_shares_stand_above_their_bars_with_n():
    axes = Figure().subplots()
    draw_shares(axes, SHARES)
    assert [text.get_text() for text in axes.texts] == ["48%"] * 3 + ["100%"] * 3
    assert [tick.get_text().split("\n")[-1] for tick in axes.get_xticklabels()] == ["n = 1,200"] * 3


def test_bars_of_perplexity_begin_at_0_and_fit():
    axes = Figure().subplots()
    draw_perplexities(axes, HELD_OUT)
    assert axes.get_yscale() == "linear"
    low, high = axes.get_ylim()
    assert (low, high > HELD_OUT["base"]["perplexity_high"]) == (0, True)
    assert [text.get_text() for text in axes.texts] == ["9", "4"]
