"""Starting a worker process, and what its supervisor can do to it."""

import os
import signal
import subprocess
import sys
from typing import Any

from pipeline.files import ROOT
from pipeline.machine import footprint_bytes
from pipeline.train.protocol import Message, Receiver, Sender
from pipeline.train.task import Task

BEGIN = "pipeline.train.worker.main"
ENVIRONMENT = {"OPENBLAS_THREAD_TIMEOUT": "18"}
"""Threads of OpenBLAS wait for the next product with a busy loop of 2^18 clock ticks (0.1 ms). Its
own 2^26 last longer than whole steps, and take the cores from what is worked on side by side."""


class WorkerProcess:
    """One worker, seen from its supervisor."""

    def __init__(self, task: Task, lock: int) -> None:
        """Start it.

        It stands in a session of its own, so that Ctrl-C in a terminal reaches the supervisor
        alone. It holds the run's lock too: while it lives, nobody else can write to the run.

        Args:
            task: what to do.
            lock: file descriptor of the run's lock.

        Raises:
            OSError: when no process can be started.
        """
        self.process = subprocess.Popen(
            [sys.executable, "-m", BEGIN, task.module, str(task.file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=ENVIRONMENT | os.environ,
            start_new_session=True,
            pass_fds=(lock,),
        )
        assert self.process.stdin
        assert self.process.stdout
        self._sender = Sender(self.process.stdin.fileno())
        self._receiver = Receiver(self.process.stdout.fileno())

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def is_open(self) -> bool:
        """Whether more may be heard from it."""
        return self._receiver.is_open

    def order(self, order: str, **facts: Any) -> None:  # noqa: ANN401
        """Tell it something; one that is dead does not hear, and that shows elsewhere."""
        self._sender.send({"order": order, **facts})

    def events(self, timeout_seconds: float) -> list[Message]:
        """Give what it has told, waiting for a first message as long as that."""
        return self._receiver.receive(timeout_seconds)

    def footprint_bytes(self) -> int:
        """Measure what it holds."""
        return footprint_bytes(self.pid)

    def wait(self) -> int:
        """Wait until it is gone, and its memory with it; give its exit status."""
        return self.process.wait()

    def kill(self) -> None:
        """End it at once; nothing that is on the disk suffers from that."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()


def is_memory_death(status: int) -> bool:
    """Tell whether a process that ended like this may have run out of memory.

    The kernel kills with SIGKILL; where MLX cannot allocate on a CPU it ends with SIGSEGV.
    """
    return status in (-9, -11, -7, -6)


def exit_text(status: int) -> str:
    """Say how a process ended."""
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    known = {"SIGKILL": "killed, perhaps for memory", "SIGSEGV": "as when MLX cannot allocate"}
    return f"{name} ({known[name]})" if name in known else name
