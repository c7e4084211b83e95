"""Attempts: counted since the run last got on."""

from pipeline.train.supervise.retry import MAX_ATTEMPTS, Attempts


def test_deaths_add_up_until_a_run_gets_on():
    attempts = Attempts()
    attempts.got_to(0)
    for number in range(MAX_ATTEMPTS):
        assert not attempts.are_used_up
        attempts.died(f"cause {number}", is_memory=False)
    assert attempts.are_used_up
    attempts.got_to(0)
    assert attempts.are_used_up  # the same step again is no progress
    attempts.got_to(1)
    assert not attempts.are_used_up


def test_the_pause_doubles_after_a_first_attempt_at_once():
    attempts, pauses = Attempts(), []
    for _ in range(4):
        attempts.died("x", is_memory=False)
        pauses.append(attempts.pause_seconds)
    assert pauses == [0.0, 0.5, 1.0, 2.0]


def test_micro_batches_are_split_after_two_deaths_for_memory():
    attempts = Attempts()
    attempts.died("x", is_memory=True)
    attempts.died("y", is_memory=False)
    assert not attempts.want_smaller_steps
    attempts.died("z", is_memory=True)
    assert attempts.want_smaller_steps
    attempts.split_micro_batches()
    assert (attempts.num_splits, attempts.want_smaller_steps) == (2, False)


def test_the_diagnosis_lists_every_death_and_a_remedy():
    attempts = Attempts()
    attempts.got_to(7)
    attempts.died("silent for 600 s", is_memory=False)
    text = attempts.diagnosis("train", "/runs/x")
    assert "1 workers have died without getting beyond step 7" in text
    assert "1. silent for 600 s" in text
    assert "intact in /runs/x" in text
    assert "Look at what the workers printed" in text
    attempts.died("SIGSEGV", is_memory=True)
    assert "train.shrink_on_oom=true" in attempts.diagnosis("train", "/runs/x")
