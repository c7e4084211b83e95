"""A warm process that forks one child per crash point, so that none pays for its imports.

It reads one JSON line per point from its standard input, forks, and prints the child's process
id; at the next line the child goes to work, and its exit status is printed when it has ended.
"""

import json
import os
import signal
import sys

from pipeline.device import mx


def begin(seconds):
    """Make a child fit to work for so long: MLX's own threads did not come along."""
    signal.alarm(seconds)
    mx.set_default_stream(mx.new_stream(mx.cpu))


def serve(child):
    """Serve crash points until the input ends.

    Args:
        child: works, and ends its process; called with the descriptor of a pipe, of which it reads
            a byte before it begins, and with the value of the line.
    """
    for line in sys.stdin:
        gate, opener = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(opener)
            child(gate, json.loads(line))
        os.close(gate)
        print(process, flush=True)
        sys.stdin.readline()
        os.write(opener, b"x")
        os.close(opener)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
