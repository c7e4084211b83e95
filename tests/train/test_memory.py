"""Memory: the limit, the slope of a leak, and when another process is due."""

import resource

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import machine
from pipeline.errors import TrainingError
from pipeline.train.memory import (
    GB,
    MB,
    SETTLED_STEPS,
    WARM_UP_STEPS,
    LeakMeter,
    MemoryGuard,
    memory_limit_bytes,
    robust_slope,
)


@pytest.mark.parametrize(
    ("granted_gb", "limit_gb"),
    [(24, 19.2), (128, 102.4), (512, 120), (8, 6.4), (1.0, 1.0), (0.5, 1.0)],
)
def test_the_automatic_limit(granted_gb, limit_gb):
    assert memory_limit_bytes(None, int(granted_gb * GB)) == pytest.approx(limit_gb * GB, abs=1)


def test_a_limit_that_is_given_is_taken():
    assert memory_limit_bytes(0.25, 10**12) == 250 * MB


@pytest.mark.parametrize("page_bytes", [4096, 16384])
def test_the_limit_does_not_depend_on_the_size_of_a_page(monkeypatch, page_bytes):
    """A predecessor found 7 GB on a machine of 128 GB: it took every page for 4 KiB."""

    class Memory:
        total = 128 * 2**30

    monkeypatch.setattr(resource, "getpagesize", lambda: page_bytes)
    monkeypatch.setattr("os.sysconf", lambda name: page_bytes)
    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    monkeypatch.setattr(machine, "own_cgroups", lambda kind: [])
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert memory_limit_bytes(None) == int(0.8 * 128 * 2**30)


def test_a_limit_of_the_cgroup_comes_first(monkeypatch):
    monkeypatch.setattr("pipeline.train.memory.available_memory_bytes", lambda: 10 * GB)
    assert memory_limit_bytes(None) == 8 * GB


@given(
    slope=st.floats(0, 1e9),
    start=st.floats(0, 1e11),
    seed=st.integers(0, 9),
)
def test_the_slope_of_a_line_is_found_though_a_quarter_of_the_points_is_wild(slope, start, seed):
    values = start + slope * np.arange(64.0)
    wild = np.random.default_rng(seed).permutation(64)[:12]
    values[wild] = 1e13 * np.random.default_rng(seed).random(12)
    assert robust_slope(values) == pytest.approx(slope, rel=0.5, abs=1e6 + 1e-3 * start)


@pytest.mark.parametrize("steps", [130, 300, 5000])
def test_the_slope_of_a_settled_process_is_found_under_waves(steps):
    """Allocators go up and down for some 100 steps around each validation; that is no leak."""
    meter, still = LeakMeter(), LeakMeter()
    for step in range(steps):
        wave = int(30 * MB * np.sin(step / 8))
        meter.add(GB + wave + 10 * MB * step)
        still.add(GB + wave)
    assert meter.settled_bytes_per_step == pytest.approx(10 * MB, rel=0.1)
    if steps > 1000:
        assert abs(still.settled_bytes_per_step) < 2e-3 * MB < abs(still.bytes_per_step)


def test_an_allocator_that_settles_is_no_leak():
    meter, leaking = LeakMeter(), LeakMeter()
    for step in range(300):
        settling = int(150 * MB * (1 - np.exp(-step / 25)))
        meter.add(GB + settling)
        leaking.add(GB + settling + 50 * MB * step)
    assert 0 <= meter.settled_bytes_per_step < 0.01 * MB
    assert leaking.settled_bytes_per_step == pytest.approx(50 * MB, rel=0.1)


def test_a_short_process_cannot_tell():
    meter = LeakMeter()
    for step in range(SETTLED_STEPS - 1):
        meter.add(GB + 50 * MB * step)
    assert meter.settled_bytes_per_step is None
    meter.add(GB + 50 * MB * (SETTLED_STEPS - 1))
    assert meter.settled_bytes_per_step == pytest.approx(50 * MB)


def test_two_points_far_apart_do_not_make_a_leak():
    """A difference of two points, as a predecessor took it, would see 10 MB a step here."""
    meter = LeakMeter()
    for _ in range(40):
        meter.add(100 * MB)
    meter.add(500 * MB)
    assert meter.bytes_per_step == 0


def test_what_a_new_process_fills_at_first_is_no_leak():
    meter = LeakMeter()
    for step in range(WARM_UP_STEPS):
        meter.add(step * GB)
    for _ in range(20):
        meter.add(WARM_UP_STEPS * GB)
    assert meter.bytes_per_step == 0


def grow(guard, steps, start=GB, per_step=50 * MB):
    """Report steps to a guard; give the one after which another process is due."""
    for step in range(1, steps + 1):
        if guard.reload_is_due(start + step * per_step, 0):
            return step
    return None


def test_a_process_ends_before_it_passes_the_threshold():
    guard = MemoryGuard(100 * GB, 2 * GB)
    assert grow(guard, 100) == 20  # it holds 2 GB now, and one more step would pass it


def test_without_a_threshold_it_ends_before_the_limit():
    guard = MemoryGuard(2 * GB, None)
    assert grow(guard, 100) == 20


def test_a_spike_within_the_step_counts():
    guard = MemoryGuard(100 * GB, 2 * GB)
    assert not guard.reload_is_due(GB, 0)
    assert guard.reload_is_due(GB, int(1.2 * GB))


def test_constant_memory_needs_no_other_process():
    assert grow(MemoryGuard(2 * GB, None), 500, per_step=0) is None


@pytest.mark.parametrize(
    ("limit_gb", "threshold_gb", "message"),
    [
        (100, 0.5, r"train.reload_memory_threshold_gb=0.5: a new process holds 1.050 GB"),
        (0.5, None, r"train.memory_limit_gb=0.5: a new process holds 1.050 GB"),
    ],
)
def test_a_bound_below_what_a_process_needs_is_refused(limit_gb, threshold_gb, message):
    guard = MemoryGuard(int(limit_gb * GB), threshold_gb and int(threshold_gb * GB))
    with pytest.raises(TrainingError, match=rf"(?s){message}.*Give at least 1\.26"):
        guard.reload_is_due(1050 * MB, 0)


def test_the_forecast_names_steps_left_and_safe_steps():
    guard = MemoryGuard(100 * GB, 5 * GB)
    assert grow(guard, 40) is None
    forecast = guard.forecast()
    assert forecast is not None
    assert forecast.bytes_per_step == 50 * MB
    assert forecast.steps_left == 40
    assert forecast.safe_steps == int(0.8 * (5 * GB - 1050 * MB) / (50 * MB))


def test_the_warning_comes_when_it_is_news_and_again_within_the_margin():
    guard = MemoryGuard(100 * GB, 5 * GB)
    said = {}
    for step in range(1, 80):
        if guard.reload_is_due(GB + step * 50 * MB, 0):
            break
        text = guard.warning(step, 5000)
        if text:
            said[step] = text
    assert len(said) == 2
    first, second = said
    assert first == WARM_UP_STEPS + 8
    assert (second, step) == (65, 79)
    assert "memory grows by 50.0 MB a step: reload in about 15 steps" in said[second]
    assert "safe steps without reload: 63, planned 5000" in said[second]


def test_no_warning_where_the_run_ends_first():
    guard = MemoryGuard(100 * GB, 5 * GB)
    assert grow(guard, 40) is None
    assert guard.warning(40, 60) is None
