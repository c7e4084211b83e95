"""The picture: drawn from either kind of metrics, the same bytes each time."""

import pytest
from matplotlib.figure import Figure

from pipeline.evaluate.picture import (
    draw,
    draw_perplexities,
    draw_shares,
    ends_of,
    read_columns,
)
from tests.support.pictures import kept, overlapping


def held_out(base, tuned):
    """Give the part of the metrics with these perplexities."""
    return {
        "n_documents": 1234,
        **{
            name: {
                "perplexity": value,
                "perplexity_low": 0.9 * value,
                "perplexity_high": 1.1 * value,
            }
            for name, value in (("base", base), ("tuned", tuned))
        },
    }


HELD_OUT = held_out(9.0, 4.0)
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
    models = {name: HELD_OUT[name] | unknown for name in ("base", "tuned")}
    draw_perplexities(axes, HELD_OUT | models)
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


@pytest.mark.parametrize(
    "metrics",
    [
        {"conflicts": SHARES},
        {"conflicts": {"contest": SHARES["contest"]}},
        *({"held_out": held_out(*pair)} for pair in ((9.0, 4.0), (3.75, 2.28), (98765.4, 12345.6))),
    ],
)
@pytest.mark.parametrize("steps", [(0, 3), (0, 50, 100, 150, 12_345)])
def test_no_text_overlaps_another_or_is_cut_off(curves, tmp_path, monkeypatch, metrics, steps):
    rows = "".join(f"{step},,{0.653 + 1 / (step + 1)}\n" for step in steps)
    curves[1].write_text(f"step,train_loss,val_loss\n{rows}")
    curves[0].write_text(f"step,train_loss\n1,1.6\n{steps[-1]},0.6\n")
    figures = kept(monkeypatch)
    draw(*curves, metrics, tmp_path / "a.png")
    assert overlapping(figures[0]) == []
    assert {axes.get_yscale() for axes in figures[0].axes} == {"linear"}


def test_the_first_and_the_last_validation_have_their_numbers(curves):
    assert ends_of(read_columns(curves[1])) == [(0, 4.0), (3, 2.6)]
    assert ends_of({"step": [5.0], "val_loss": [1.0]}) == [(5.0, 1.0)]
