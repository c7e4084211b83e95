"""What a run must remember to go on as if nothing had happened."""

from pipeline.train.checkpoints import state


def test_a_new_best_starts_the_count_again():
    progress = state.Progress()
    for step, val_loss in enumerate([3.0, 2.0, 2.5, 1.0, 1.0, 1.5]):
        assert progress.stopped_early_at is None
        progress.step = step
        progress.close_window(val_loss, val_loss, patience=2)
    assert (progress.best_step, progress.stopped_early_at) == (3, 5)
