"""Runs a stage in a fork per crash point (`forks.py`): `stage_driver.py STAGE STAGE ...`.

A line of its standard input has the name of a stage and its arguments.
"""

import importlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.forks import begin, serve

CHILD_SECONDS = 120
STAGES = {name: importlib.import_module(f"stages.{name}") for name in sys.argv[1:]}


def child(gate, command):
    """Wait for a byte, and run the stage."""
    begin(CHILD_SECONDS)
    stage, arguments = command
    silent = os.open(os.devnull, os.O_RDWR)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    sys.argv = [f"stages/{stage}.py", *arguments]
    STAGES[stage].main.__wrapped__.__module__ = "__main__"  # so that Hydra names the job by argv
    os.read(gate, 1)
    status = 1
    try:
        STAGES[stage].main()
    except SystemExit as end:
        status = end.code
    finally:
        os._exit(status)


if __name__ == "__main__":
    serve(child)
