"""Learning rates: values by hand, and what every schedule must keep to."""

import itertools
import math

import numpy as np
import pytest

from pipeline.optim.schedules import FALLS, RateSettings, make_schedule
from tools.draw_schedules import PICTURE, draw

EACH = pytest.mark.parametrize("name", FALLS)


def rates(name="cosine", num_steps=20, beyond=0, **changes):
    usual = {"warmup_fraction": 0.2, "final_fraction": 0.1, "decay_fraction": None}
    if name == "wsd":
        usual["decay_fraction"] = 0.25
    if name == "constant":
        usual["final_fraction"] = None
    settings = RateSettings(**{"schedule": name, "learning_rate": 1.0, **usual, **changes})
    schedule = make_schedule(settings, num_steps)
    return [schedule(step) for step in range(num_steps + beyond)]


@EACH
def test_the_warmup_rises_in_a_line_to_the_peak(name):
    assert rates(name)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@EACH
def test_without_a_warmup_the_first_update_has_the_peak(name):
    assert rates(name, warmup_fraction=0.0)[0] == 1.0


@EACH
def test_after_its_end_a_schedule_stays_where_it_is(name):
    end = 1.0 if name == "constant" else 0.1
    assert rates(name, beyond=200)[20:] == pytest.approx([end] * 200)


@EACH
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_no_update_is_wasted_however_few_there_are(name, num_steps):
    floor = None if name == "constant" else 0.0
    series = rates(name, num_steps, final_fraction=floor)
    assert min(series) > 0
    assert max(series) == pytest.approx(1.0)


@EACH
def test_a_run_that_is_all_warmup_ends_at_the_peak(name):
    late = {"decay_fraction": 0.0} if name == "wsd" else {}
    assert rates(name, 4, warmup_fraction=1.0, **late) == pytest.approx([0.25, 0.5, 0.75, 1.0])


@EACH
def test_rates_are_proportional_to_the_peak(name):
    assert rates(name, learning_rate=3.0) == pytest.approx(3 * np.array(rates(name)))


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_what_falls_does_so_after_the_warmup_in_every_step(name):
    series = rates(name)
    assert all(one > other for one, other in itertools.pairwise(series[3:]))
    assert 0.1 < series[-1] < 0.2


def test_linear_falls_by_the_same_in_every_step():
    falls = -np.diff(rates("linear", beyond=1)[3:])
    assert falls == pytest.approx([0.9 / 17] * 17, rel=1e-4)


def test_cosine_is_that_of_its_formula():
    wanted = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * k / 17)) for k in range(17)]
    assert rates("cosine")[3:] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("num_steps", [1_000, 10_000, 100_000])
@pytest.mark.parametrize("final_fraction", [0.0, 0.1])
def test_the_last_rates_of_a_cosine_are_those_of_its_formula(num_steps, final_fraction):
    """Formed in float32, they are 0.5 % and 21 % off, and the last seven of 100,000 are 0."""
    found = rates("cosine", num_steps, warmup_fraction=0.05, final_fraction=final_fraction)
    warmup_steps = num_steps // 20
    for left in range(1, 50):  # cos(pi - x) = -cos(x), and 1 - cos(x) = 2 sin(x / 2)^2
        share = math.sin(math.pi / 2 * left / (num_steps - warmup_steps + 1)) ** 2
        wanted = final_fraction + (1 - final_fraction) * share
        assert found[-left] == pytest.approx(wanted, rel=1e-7)
        assert found[-left] > 0


def test_constant_is_level():
    assert rates("constant")[4:] == [1.0] * 16


def test_wsd_stays_at_the_peak_and_falls_at_the_end_only():
    series = rates("wsd")
    assert series[3:15] == [1.0] * 12
    wanted = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(1, 6)]
    assert series[15:] == pytest.approx(wanted)


def test_the_decay_of_wsd_is_its_share_of_the_run():
    for fraction in (0.1, 0.25, 0.5):
        below = [rate for rate in rates("wsd", 40, decay_fraction=fraction)[8:] if rate < 1]
        assert len(below) == 40 * fraction


def test_the_warmup_is_its_share_of_the_run():
    for fraction, steps in ((0.1, 4), (0.5, 20)):
        series = rates("constant", 40, warmup_fraction=fraction)
        assert series.index(1.0) == steps - 1


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
def test_the_floor_is_its_share_of_the_peak(name):
    for fraction in (0.0, 0.3):
        assert rates(name, beyond=1, final_fraction=fraction)[-1] == pytest.approx(fraction)


def test_the_picture_shows_every_schedule_as_it_is(tmp_path):
    figure = draw(tmp_path / "schedules.png")
    assert [axes.get_title() for axes in figure.axes] == list(FALLS)
    for name, axes in zip(FALLS, figure.axes, strict=True):
        shares = {"warmup_fraction": 0.1} | ({"decay_fraction": 0.25} if name == "wsd" else {})
        shown = axes.lines[0].get_ydata()
        assert shown == pytest.approx(rates(name, 200, beyond=20, **shares), rel=1e-6)
    assert PICTURE.exists()
    assert (tmp_path / "schedules.png").stat().st_size > 5000
