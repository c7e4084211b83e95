"""The worker processes of a run: the one that trains, and the next one, started early."""

import contextlib
import os
import signal
import subprocess
import sys

from pipeline.files import ROOT
from pipeline.train.protocol import Event, Order, Receiver, RunSpec, Sender, Standby

PROGRAM = "pipeline.train.worker.main"
ENVIRONMENT = {"OPENBLAS_THREAD_TIMEOUT": "18"}
"""Threads of OpenBLAS wait for the next product in a busy loop of 2^18 clock ticks (0.1 ms). By
default it is 2^26, which lasts longer than whole steps and keeps the cores from other work."""


class Worker:
    """One worker process, as its supervisor sees it."""

    def __init__(self, spec: RunSpec, lock: int) -> None:
        """Start the process.

        It gets its own session, so that Ctrl-C in a terminal reaches only the supervisor. It holds
        the lock of the run too: while it lives, no other process can write to the run.

        Args:
            spec: the run.
            lock: file descriptor of the lock of the run.

        Raises:
            OSError: when no process can be started.
        """
        self.process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM, str(spec.file)],
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
    def is_open(self) -> bool:
        """Whether more events may come."""
        return self._receiver.is_open

    def send(self, order: Order) -> None:
        """Send an order; that a dead worker does not read it shows in its exit status."""
        self._sender.send(order)

    def events(self, timeout_seconds: float) -> list[Event]:
        """Return the events that have come; wait at most that long for a first one."""
        return self._receiver.receive(timeout_seconds)

    def kill(self) -> None:
        """Kill it; nothing on the disk suffers from that."""
        self.process.kill()

    def wait(self) -> int:
        """Wait until the process and its memory are gone; return its exit status."""
        return self.process.wait()

    def close(self) -> None:
        """Kill the process, wait until it is gone, and close its pipes."""
        self.kill()
        self.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()


class Workers:
    """Starts the workers of a run and leaves none behind."""

    def __init__(self, spec: RunSpec, lock: int) -> None:
        self.spec, self.lock = spec, lock
        self.worker: Worker | None = None
        self.standby: Worker | None = None

    def next_worker(self) -> Worker:
        """Return the stand-by if it is alive, or else a new worker.

        Raises:
            OSError: when no process can be started.
        """
        standby, self.standby = self.standby, None
        if standby is None or standby.process.poll() is not None:
            standby = Worker(self.spec, self.lock)
        self.worker = standby
        return standby

    def start_standby(self) -> None:
        """Start the next worker early, so that it has imported everything when it is needed."""
        if self.standby is not None or self.worker is None:
            return
        with contextlib.suppress(OSError):  # without one a reload only takes longer
            self.standby = Worker(self.spec, self.lock)
            self.worker.send(Standby(self.standby.process.pid))

    def end_standby(self) -> None:
        """End the stand-by, if there is one."""
        standby, self.standby = self.standby, None
        if standby is not None:
            standby.close()

    def pids(self) -> list[int]:
        """List the processes of worker and stand-by, from any thread."""
        return [each.process.pid for each in (self.worker, self.standby) if each]

    def release(self) -> None:
        """Forget the worker, which is gone."""
        self.worker = None

    def end(self) -> None:
        """End all processes."""
        for each in (self.worker, self.standby):
            if each is not None:
                each.close()
        self.worker = self.standby = None


def is_memory_death(status: int) -> bool:
    """Whether a process with this exit status may have run out of memory.

    The kernel kills with SIGKILL; where MLX cannot allocate on a CPU it ends with SIGSEGV.
    """
    return status in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT)


def exit_text(status: int) -> str:
    """Describe how a process ended, for a person."""
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    known = {
        "SIGKILL": "killed, perhaps because memory ran out",
        "SIGSEGV": "perhaps because MLX could not allocate memory",
    }
    return f"{name}: {known[name]}" if name in known else name
