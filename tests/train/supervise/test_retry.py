"""Retry: counted since the run last got on."""

from pipeline.train.supervise.retry import MAX_ATTEMPTS, Retry


def test_deaths_add_up_until_a_run_gets_on():
    retry = Retry()
    retry.progressed(0)
    for number in range(MAX_ATTEMPTS):
        assert not retry.exhausted
        retry.died(f"cause {number}", is_memory=False)
    assert retry.exhausted
    retry.progressed(0)
    assert retry.exhausted  # the same step again is no progress
    retry.progressed(1)
    assert not retry.exhausted


def test_the_pause_doubles_after_a_first_attempt_at_once():
    retry, pauses = Retry(), []
    for _ in range(4):
        retry.died("x", is_memory=False)
        pauses.append(retry.pause_seconds)
    assert pauses == [0.0, 0.5, 1.0, 2.0]


def test_micro_batches_are_split_after_two_deaths_for_memory():
    retry = Retry()
    retry.died("x", is_memory=True)
    retry.died("y", is_memory=False)
    assert not retry.wants_smaller_steps
    retry.died("z", is_memory=True)
    assert retry.wants_smaller_steps
    retry.split_micro_batches()
    assert (retry.num_splits, retry.wants_smaller_steps) == (2, False)


def test_the_diagnosis_lists_every_death_and_a_remedy():
    retry = Retry()
    retry.progressed(7)
    retry.died("silent for 600 s", is_memory=False)
    text = retry.diagnosis("train", "/runs/x")
    assert "1 workers have died without getting beyond step 7" in text
    assert "1. silent for 600 s" in text
    assert "intact in /runs/x" in text
    assert "Look at what the workers printed" in text
    retry.died("SIGSEGV", is_memory=True)
    assert "train.shrink_on_oom=true" in retry.diagnosis("train", "/runs/x")
