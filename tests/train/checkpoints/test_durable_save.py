"""A run is put on the disk, also where the disk is full for a while."""

import pytest

from pipeline.errors import CheckpointError
from pipeline.train.checkpoints.durable_save import DurableSave
from tests.support.saved import made


@pytest.fixture
def save(folder):
    return DurableSave(folder, [])


@pytest.fixture
def disk(folder, monkeypatch):
    """Let saving fail while `disk["full"]`."""
    state, real = {"full": False}, folder.save

    def save(checkpoint, protect):
        if state["full"]:
            raise CheckpointError("no space left")
        real(checkpoint, protect=protect)

    monkeypatch.setattr(folder, "save", save)
    return state


def test_a_full_disk_does_not_end_a_run_that_has_a_checkpoint(save, disk, folder):
    assert save.save(made(1), best_step=1)
    disk["full"] = True
    assert not save.save(made(2), best_step=2)
    disk["full"] = False
    assert save.save(made(3), best_step=2)  # step 2 was the best in the meantime
    assert {2, 3} <= set(folder.steps())
    assert save.saved_step == 3


def test_a_disk_that_was_always_full_ends_the_run(save, disk):
    disk["full"] = True
    with pytest.raises(CheckpointError, match="no space left"):
        save.save(made(1), best_step=1)
