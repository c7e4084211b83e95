"""An observer of a run: what the training loop reports to."""

from pipeline.train.observer import Observer


def test_the_default_measures_and_does_nothing_else():
    observer = Observer()
    assert observer.footprint_bytes() > 0
    assert observer.heartbeat() is observer.note("a") is observer.validated(1, 0.5) is None
    assert (observer.reloads, observer.limit_bytes, observer.bound_bytes) == (0, 0, 0)
