"""What a supervisor shows and records of its run."""

import pytest

from pipeline.machine import PeakMeter
from pipeline.train.protocol import Started
from pipeline.train.supervise.events import Events
from pipeline.train.supervise.run_state import RunState
from pipeline.train.supervise.status import Status


@pytest.fixture
def events(tmp_path):
    return Events("train", 9, tmp_path, RunState(limit_bytes=10))


def recorded(events):
    return [entry["what"] for entry in events.journal.entries()]


def test_a_first_worker_is_a_start_and_a_later_one_a_recovery(events):
    events.started(Started(0, []))
    events.died("killed", is_memory=False)
    events.started(Started(4, []))
    assert recorded(events) == ["start", "death", "recovery"]
    assert events.facts()["recoveries"] == 1


def test_a_planned_change_of_process_is_a_reload(events):
    events.started(Started(0, []))
    events.state.ending(4, "interval")
    events.started(Started(4, []))
    assert recorded(events) == ["start", "reload"]
    assert events.facts()["reload_seconds"] >= 0


def test_changed_numerics_make_a_run_inexact(events):
    events.started(Started(0, ["blas: a, now b"]))
    assert recorded(events) == ["inexact", "recovery"]
    assert events.facts()["inexact"] == ["blas: a, now b"]


def test_the_status_is_written_for_other_processes(events, tmp_path):
    assert events.is_status_due
    meter = PeakMeter()
    meter.sample()
    events.write_status("running", meter)
    assert not events.is_status_due
    found = Status.read(tmp_path)
    assert (found.state, found.num_steps) == ("running", 9)
    assert found.footprint_bytes == meter.last.footprint_bytes
    assert Status.peak_of(tmp_path) == meter.peak


def test_samples_are_shown_and_recorded_with_their_time(events, monkeypatch):
    shown = []
    monkeypatch.setattr(events.progress, "note", shown.append)
    events.sampled(5, 1.5, "  prompt     How?\n  now        So.")
    assert shown == ["train step 5: samples, 1.5 s\n  prompt     How?\n  now        So."]
    [entry] = events.journal.entries()
    assert (entry["what"], entry["step"], entry["seconds"]) == ("samples", 5, 1.5)
