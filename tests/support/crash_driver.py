"""A warm process that forks one child per crash point, so that none pays for its imports.

It reads one JSON line per point from its standard input, forks, and prints the child's process
id; at the next line the child goes to work, and its exit status is printed when it has ended.
The child does what a run does: open the folder, take up the newest checkpoint, save.
"""

import json
import logging
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from pipeline.device import mx
from pipeline.errors import CheckpointError
from pipeline.train.checkpoints.folder import Checkpoint, CheckpointFolder

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


def child(gate, folder, keep, saves):
    """Wait for a byte, work, and end without a word; MLX's own threads did not come along."""
    signal.alarm(CHILD_SECONDS)
    logging.disable()
    mx.set_default_stream(mx.new_stream(mx.cpu))
    samples = [sample(step) for step in saves]
    os.read(gate, 1)
    status = BROKEN
    try:
        status = work(folder, keep, samples)
    except CheckpointError:
        status = REFUSED
    finally:
        os._exit(status)


def main():
    """Serve crash points until the input ends."""
    sample(0)  # imports what NumPy imports late
    for line in sys.stdin:
        gate, opener = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(opener)
            child(gate, **json.loads(line))
        os.close(gate)
        print(process, flush=True)
        sys.stdin.readline()
        os.write(opener, b"x")
        os.close(opener)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
