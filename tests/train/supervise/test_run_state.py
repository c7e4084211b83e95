"""What a supervisor knows of its run and of the worker that trains."""

import pytest

from pipeline.train.supervise.run_state import RunState


@pytest.fixture
def state():
    state = RunState(limit_bytes=10)
    state.started(3)
    return state


def test_a_step_is_progress_and_forgets_deaths(state):
    state.died("killed", is_memory=True)
    assert state.retry.causes == ["killed"]
    state.stepped(4)
    assert (state.segment.step, state.retry.step, state.retry.causes) == (4, 4, [])


@pytest.mark.parametrize(
    ("reason", "is_reload"), [("interval", True), ("memory", True), ("done", False)]
)
def test_only_a_planned_change_of_process_is_timed(state, reason, is_reload):
    state.ending(4, reason)
    assert state.segment.phase == "ending"
    assert (state.reload_seconds is not None) is is_reload
    state.started(4)
    assert state.reload_seconds is None


def test_a_worker_that_is_stopped_while_it_validates_stands_at_the_step_it_saves(state):
    state.stepped(4)
    state.ending(5, "stopped")  # step 5 was made, and its report was still to come
    assert (state.segment.step, state.retry.step) == (5, 5)


def test_a_death_is_no_planned_change(state):
    state.ending(4, "interval")
    state.died("killed", is_memory=False)
    assert state.reload_seconds is None


def test_leaks_are_kept_where_they_were_measured(state):
    state.ended("interval", None)
    state.ended("interval", 5.0)
    assert state.leaks == [5.0]
