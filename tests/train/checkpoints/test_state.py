"""What a run must remember to go on as if nothing had happened."""

from pipeline.train.checkpoints import state


def test_a_new_best_starts_the_count_again():
    progress = state.Progress()
    for step, val_loss in enumerate([3.0, 2.0, 2.5, 1.0, 1.0, 1.5]):
        assert progress.stopped_early_at is None
        progress.step = step
        progress.close_window(val_loss, val_loss, patience=2)
    assert (progress.best_step, progress.stopped_early_at) == (3, 5)


def test_speed_is_targets_and_tokens_over_the_time_of_steps():
    progress = state.Progress(wall_seconds=100.0)
    assert progress.rates() == {"targets_per_second": 0.0, "tokens_per_second": 0.0}
    progress.add_update(loss_sum=9.0, num_targets=6, num_tokens=8)
    progress.step_seconds = 2.0
    assert progress.rates() == {"targets_per_second": 3.0, "tokens_per_second": 4.0}
