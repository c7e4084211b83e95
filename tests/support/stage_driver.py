"""A warm process that forks one stage per crash point, so that none pays for its imports.

It reads one JSON line per point from its standard input: the name of a stage and its arguments. It
forks, and prints the child's process id; at the next line the child runs the stage, and its exit
status is printed when it has ended.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.device import mx

CHILD_SECONDS = 120
STAGES = {name: importlib.import_module(f"stages.{name}") for name in sys.argv[1:]}


def child(gate, stage, arguments):
    """Wait for a byte, and run the stage; MLX's own threads did not come along."""
    signal.alarm(CHILD_SECONDS)
    mx.set_default_stream(mx.new_stream(mx.cpu))
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


def main():
    """Serve crash points until the input ends."""
    for line in sys.stdin:
        gate, opener = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(opener)
            child(gate, *json.loads(line))
        os.close(gate)
        print(process, flush=True)
        sys.stdin.readline()
        os.write(opener, b"x")
        os.close(opener)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
