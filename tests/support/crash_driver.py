"""Saves checkpoints in a fork per crash point (`forks.py`).

The child does what a run does: open the folder, take up the newest checkpoint, save.
"""

import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from pipeline.device import mx
from pipeline.errors import CheckpointError
from pipeline.train.checkpoints.folder import Checkpoint, CheckpointFolder
from tests.support.forks import begin, serve

DONE, NOTHING, REFUSED, BROKEN = 0, 3, 4, 5
"""Exit statuses of a child: saved; found nothing to read; a CheckpointError; any other error."""
CHILD_SECONDS = 30


def sample(step):
    """Make a checkpoint that tells its step in every part; nothing is left to evaluate."""
    generator = np.random.default_rng(step)
    arrays = {
        "model/w": mx.array(generator.normal(size=2000).astype(np.float32)),
        "model/b": mx.array(generator.normal(size=(3, 5)).astype(np.float32)),
        "random/key": mx.array(np.array([step, 7], np.uint32)),
    }
    return Checkpoint(step, arrays, {"progress": {"step": step}, "note": "ä" * 40})


def work(folder, keep, samples):
    """Open, read and save; go on after a save that failed, as training does."""
    checkpoints, refused = CheckpointFolder(Path(folder), keep), False
    found = checkpoints.newest()
    for checkpoint in samples:
        try:
            checkpoints.save(checkpoint)
        except CheckpointError:
            refused = True
    if refused:
        return REFUSED
    return DONE if found or samples else NOTHING


def child(gate, command):
    """Wait for a byte, work, and end without a word."""
    begin(CHILD_SECONDS)
    logging.disable()
    samples = [sample(step) for step in command["saves"]]
    os.read(gate, 1)
    status = BROKEN
    try:
        status = work(command["folder"], command["keep"], samples)
    except CheckpointError:
        status = REFUSED
    finally:
        os._exit(status)


if __name__ == "__main__":
    sample(0)  # imports what NumPy imports late
    serve(child)
