"""Small checkpoints to be saved and damaged."""

from pathlib import Path

from pipeline.device import mx
from pipeline.train.checkpoints.folder import Checkpoint

ROOT = Path(__file__).resolve().parents[3]


def made(step, size=64):
    arrays = {"model/w": mx.full((size,), float(step)), "model/bits": mx.array([step, 7])}
    return Checkpoint(step, arrays, {"progress": {"step": step}, "note": "ä"})


def names(folder):
    return sorted(path.name for path in folder.folder.iterdir())


SMALL_DISK = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.train.checkpoints.test_folder import made, names
from pipeline.errors import CheckpointError
from pipeline.train.checkpoints import folder as module
from pipeline.train.checkpoints.folder import CheckpointFolder
module.DISK_MARGIN = 0  # let the disk itself refuse
folder = CheckpointFolder(Path(sys.argv[1]) / "run", keep=1)
folder.save(made(1))
subprocess.run(sys.argv[3], shell=True, check=True)
try:
    folder.save(made(2, size=600_000))
except CheckpointError as error:
    print("refused:", error)
print("left", names(folder), CheckpointFolder(folder.folder, keep=1).newest().step)
subprocess.run(sys.argv[4], shell=True, check=True)
folder.save(made(3))
print("then", names(folder), folder.newest().step)
"""


SAVE_FOREVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.train.checkpoints.test_folder import made
from pipeline.train.checkpoints.folder import CheckpointFolder
folder = CheckpointFolder(Path(sys.argv[1]), keep=2)
newest = folder.newest()
step = newest.step if newest else 0
print("from", step, flush=True)
while True:
    step += 1
    folder.save(made(step, size=20_000))
"""
