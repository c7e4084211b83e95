"""Processes of the comparison. They end when the comparison ends, even when it is killed.

`python -m pipeline.benchmark.peers.child PARENT PROGRAM ARGUMENT...` becomes the program. The
system kills it when the process PARENT ends.
"""

import os
import subprocess
import sys
from collections.abc import Mapping

from pipeline.files import ROOT
from pipeline.machine import die_with_parent

GRACE_SECONDS = 10
SHOWN_CHARACTERS = 600


class NotMeasured(Exception):
    """A figure could not be measured; the text says why."""


def run_module(
    module: str, arguments: list[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a Python module as a process, and wait for it. An interruption ends the process too.

    Args:
        module: its name.
        arguments: of its command line.
        environment: variables to add to those of this process.

    Returns:
        Its exit status, and its output on both streams.
    """
    program = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        [sys.executable, "-m", __name__, str(os.getpid()), *program],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            output, _ = process.communicate()
        except BaseException:
            end(process)
            raise
    return subprocess.CompletedProcess(program, process.returncode, output)


def failure(name: str, done: subprocess.CompletedProcess[str]) -> NotMeasured:
    """Return the error for a process that failed: its exit status and the end of its output."""
    last = " ".join(done.stdout[-SHOWN_CHARACTERS:].split())
    return NotMeasured(f"{name} ended with exit status {done.returncode}: {last}")


def end(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and kill it when that takes too long."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def become(parent: int, program: list[str]) -> None:
    """Replace this process by a program that dies with its parent; return if the parent is dead."""
    die_with_parent()
    if os.getppid() == parent:
        os.execv(program[0], program)


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
