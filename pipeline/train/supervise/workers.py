"""The processes of a run: the worker that trains, and the next one, warmed up beside it."""

import contextlib
from pathlib import Path

from pipeline.machine import footprint_bytes
from pipeline.train.supervise.launch import WorkerProcess
from pipeline.train.supervise.run_folder import RunFolder
from pipeline.train.task import Task


class Crew:
    """Starts the workers of a run and leaves none behind."""

    def __init__(self, task: Task, run: RunFolder) -> None:
        self.task, self.run = task, run
        self.worker: WorkerProcess | None = None
        self.standby: WorkerProcess | None = None

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return self.run.path

    def next_worker(self) -> WorkerProcess:
        """Put the stand-by to work where there is one that lives, else a new process.

        Raises:
            OSError: when no process can be started.
        """
        standby, self.standby = self.standby, None
        if standby is None or standby.process.poll() is not None:
            standby = self.start()
        self.worker = standby
        return standby

    def start(self) -> WorkerProcess:
        """Start a process, which waits for orders."""
        return WorkerProcess(self.task, self.run.lock.descriptor)

    def start_standby(self, worker: WorkerProcess) -> None:
        """Start the next worker early, so that it has imported everything when it is needed."""
        if self.standby is not None:
            return
        with contextlib.suppress(OSError):  # without one a reload only takes longer
            self.standby = self.start()
            worker.order("standby", pid=self.standby.pid)

    def footprint_bytes(self) -> int:
        """Measure supervisor, worker and stand-by together."""
        held = [each.footprint_bytes() for each in (self.worker, self.standby) if each]
        return footprint_bytes() + sum(held)

    def release(self) -> None:
        """Forget the worker, which is gone."""
        self.worker = None

    def end(self) -> None:
        """Leave no process behind."""
        for each in (self.worker, self.standby):
            if each is not None:
                each.kill()
        self.worker = self.standby = None
