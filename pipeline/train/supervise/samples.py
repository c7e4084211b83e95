"""Samples while a run is under way: its newest weights answer held-out prompts.

A process of its own generates them between two workers, so that no two models are in memory. It
only reads the checkpoint: whatever happens to it, the run goes on to the same bits.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from pipeline.files import ROOT
from pipeline.machine import PeakMeter
from pipeline.train.memory import GB
from pipeline.train.supervise.settings import SupervisorSettings
from pipeline.train.supervise.workers import ENVIRONMENT, exit_text

PROGRAM = "stages.sample"
POLL_SECONDS = 0.1
ERROR = re.compile(r"[\w.]+Error: ")


class SamplesError(Exception):
    """Samples could not be generated."""


class Samples:
    """Generates samples of a run, one process at a time.

    Attributes:
        interval_steps: steps between two samples; 0: there are none, or no more.
    """

    def __init__(
        self, spec_file: Path, settings: SupervisorSettings, limit_bytes: int, meter: PeakMeter
    ) -> None:
        """Set up the samples of a run.

        Args:
            spec_file: specifies the run.
            settings: when samples are generated, and how long that may take.
            limit_bytes: footprint that the run may never pass.
            meter: measures this process and those of `pids`.
        """
        self.spec_file, self.limit_bytes, self.meter = spec_file, limit_bytes, meter
        self.interval_steps = settings.steps_per_sample or 0
        self.timeout_seconds = settings.hang_timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def are_due(self, step: int) -> bool:
        """Whether samples are generated after a step."""
        return bool(self.interval_steps) and step % self.interval_steps == 0

    def pids(self) -> list[int]:
        """List the process that generates, if there is one, from any thread."""
        process = self._process
        return [] if process is None else [process.pid]

    def generate(self, must_stop: Callable[[], bool]) -> str:
        """Generate samples, and return them as text; after a failure there are no more.

        Args:
            must_stop: whether the run is to stop, so that nobody waits for samples.

        Raises:
            SamplesError: when there are none.
        """
        try:
            with TemporaryFile() as written, TemporaryFile() as errors:
                self.run(written, errors, must_stop)
                return text_in(written)
        except (OSError, SamplesError) as error:
            self.interval_steps = 0
            raise SamplesError(str(error)) from error

    def run(self, written: IO[bytes], errors: IO[bytes], must_stop: Callable[[], bool]) -> None:
        """Run the process to its end.

        Args:
            written: takes what it prints.
            errors: takes its errors.
            must_stop: whether it is to be ended.

        Raises:
            OSError: when it cannot be started.
            SamplesError: when it fails, or had to be ended.
        """
        self.meter.highest_bytes()  # what the worker held counts no more
        command = [sys.executable, "-m", PROGRAM, str(self.spec_file), str(self.limit_bytes)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=errors,
            cwd=ROOT,
            env=ENVIRONMENT | os.environ,
            start_new_session=True,  # so that Ctrl-C in a terminal reaches only the supervisor
        )
        try:
            self.wait(self._process, must_stop)
            status = self._process.wait()
        finally:
            self.end()
        if status:
            raise SamplesError(last_error_in(text_in(errors)) or exit_text(status))

    def wait(self, process: subprocess.Popen[bytes], must_stop: Callable[[], bool]) -> None:
        """Wait for the end of the process.

        Raises:
            SamplesError: when it has to be ended.
        """
        end = time.monotonic() + self.timeout_seconds
        while process.poll() is None:
            held = self.meter.highest_bytes()
            if held > self.limit_bytes:
                limit = self.limit_bytes / GB
                raise SamplesError(f"they held {held / GB:.3f} GB, limit {limit:.3f} GB")
            if time.monotonic() > end:
                raise SamplesError(f"they took longer than {self.timeout_seconds:g} s")
            if must_stop():
                raise SamplesError("the run is to stop")
            time.sleep(POLL_SECONDS)

    def end(self) -> None:
        """Kill the process, if there is one, and wait until it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def last_error_in(text: str) -> str:
    """Return the last error that a process has printed, in one line; empty without one."""
    lines = text.splitlines()
    errors = [number for number, line in enumerate(lines) if ERROR.match(line)]
    return " ".join(lines[errors[-1] :]) if errors else ""


def text_in(file: IO[bytes]) -> str:
    """Return the text that a process has written."""
    file.seek(0)
    return file.read().decode("utf-8", errors="replace").rstrip()
