"""Retry: counted since the run last got on."""

import pytest

from pipeline.train.supervise.retry import MAX_ATTEMPTS, Retry


def test_deaths_add_up_until_a_run_gets_on():
    retry = Retry()
    retry.progressed(0)
    for number in range(MAX_ATTEMPTS):
        assert not retry.exhausted
        retry.died(f"cause {number}", is_memory=False, lived_steps=0)
    assert retry.exhausted
    retry.progressed(0)
    assert retry.exhausted  # the same step again is no progress
    retry.progressed(1)
    assert not retry.exhausted


def test_the_pause_doubles_after_a_first_attempt_at_once():
    retry, pauses = Retry(), []
    for _ in range(4):
        retry.died("x", is_memory=False, lived_steps=0)
        pauses.append(retry.pause_seconds)
    assert pauses == [0.0, 0.5, 1.0, 2.0]


def test_micro_batches_are_split_after_two_deaths_for_memory():
    retry = Retry()
    retry.died("x", is_memory=True, lived_steps=0)
    retry.died("y", is_memory=False, lived_steps=0)
    assert not retry.wants_smaller_steps
    retry.died("z", is_memory=True, lived_steps=0)
    assert retry.wants_smaller_steps
    retry.split_micro_batches()
    assert (retry.num_splits, retry.wants_smaller_steps) == (2, False)


@pytest.mark.parametrize(("lived", "within"), [(0, None), (1, 1), (2, 1), (9, 4)])
def test_a_worker_saves_before_the_step_at_which_others_have_died_twice(lived, within):
    retry = Retry()
    retry.died("x", is_memory=False, lived_steps=lived)
    assert retry.save_within is None
    retry.died("x", is_memory=False, lived_steps=lived)
    assert retry.save_within == within
    retry.progressed(1)
    assert retry.save_within is None


@pytest.mark.parametrize(
    ("is_memory", "lived", "interval", "is_advised"),
    [
        (True, 8, 0, True),
        (True, 8, 9, True),
        (True, 8, 8, False),
        (True, 0, 0, False),
        (False, 8, 0, False),
    ],
)
def test_reloading_is_advised_once_where_memory_ran_out_and_it_would_help(
    is_memory, lived, interval, is_advised
):
    retry = Retry()
    retry.died("x", is_memory=is_memory, lived_steps=lived)
    assert ("train.reload_interval_steps=4" in retry.reload_advice(interval)) is is_advised
    assert retry.reload_advice(interval) == ""


def test_the_diagnosis_lists_every_death_and_a_remedy():
    retry = Retry()
    retry.progressed(7)
    retry.died("silent for 600 s", is_memory=False, lived_steps=0)
    text = retry.diagnosis("train", "/runs/x")
    assert "1 workers have died without getting beyond step 7" in text
    assert "1. silent for 600 s" in text
    assert "intact in /runs/x" in text
    assert "Look at what the workers printed" in text
    retry.died("SIGSEGV", is_memory=True, lived_steps=0)
    assert "train.shrink_on_oom=true" in retry.diagnosis("train", "/runs/x")
