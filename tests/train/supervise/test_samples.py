"""The process that generates samples: what it prints, and every way in which it can fail."""

import re
import time
from pathlib import Path

import psutil
import pytest

from pipeline.machine import PeakMeter
from pipeline.train.supervise import samples as module
from pipeline.train.supervise.samples import Samples, SamplesError, last_error_in
from pipeline.train.supervise.settings import SupervisorSettings

PROGRAM = "tests.support.any_program"
HOLD = "import time; held = bytearray(b'1') * (300 << 20); time.sleep(60)"
FAIL = "import sys; print('Warning: x', file=sys.stderr); raise ValueError('no such tensor')"


@pytest.fixture
def samples_of(tmp_path, monkeypatch):
    """Make samples that some code generates."""
    monkeypatch.setattr(module, "PROGRAM", PROGRAM)

    def make(code, limit_bytes=10**10, timeout_seconds=60.0):
        file = tmp_path / "code.py"
        file.write_text(code)
        settings = SupervisorSettings(steps_per_sample=5, hang_timeout_seconds=timeout_seconds)
        return Samples(file, settings, limit_bytes, PeakMeter())

    return make


def generated(samples, must_stop=lambda: False):
    """Generate samples while the process is measured."""
    with samples.meter, samples.meter.including(samples.pids):
        return samples.generate(must_stop)


def test_they_are_due_at_the_interval():
    settings = [SupervisorSettings(steps_per_sample=steps) for steps in (5, None)]
    made = [Samples(Path(), each, 0, PeakMeter()) for each in settings]
    assert [[step for step in range(1, 12) if each.are_due(step)] for each in made] == [[5, 10], []]


def test_what_the_process_prints_is_returned_and_the_next_ones_are_due(samples_of):
    samples = samples_of("import sys; print('ü\\n'); print('apart', file=sys.stderr)")
    assert generated(samples) == "ü"
    assert samples.are_due(10)


@pytest.mark.parametrize(
    ("code", "own", "reason"),
    [
        (FAIL, {}, "ValueError: no such tensor"),
        ("import os; os._exit(3)", {}, "exit status 3"),
        (HOLD, {"limit_bytes": 200_000_000}, r"they held 0\.\d+ GB, limit 0.200 GB"),
        ("import time; time.sleep(60)", {"timeout_seconds": 1.0}, "they took longer than 1 s"),
    ],
    ids=["error", "exit", "memory", "time"],
)
def test_after_a_failure_there_is_a_reason_and_no_process_and_no_more_are_due(
    samples_of, code, own, reason
):
    samples = samples_of(code, **own)
    with pytest.raises(SamplesError, match=f"^{reason}$"):
        generated(samples)
    assert samples.pids() == []
    assert not [each for each in psutil.Process().children() if PROGRAM in each.cmdline()]
    assert not samples.are_due(5)


def test_a_run_that_is_to_stop_does_not_wait_for_them(samples_of):
    samples, began = samples_of("import time; time.sleep(60)"), time.monotonic()
    with pytest.raises(SamplesError, match="the run is to stop"):
        generated(samples, must_stop=lambda: bool(samples.pids()))
    assert time.monotonic() - began < 30
    assert samples.pids() == []


def test_a_process_that_cannot_be_started_is_a_reason_too(samples_of, monkeypatch):
    def refuse(*arguments, **settings):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(module.subprocess, "Popen", refuse)
    with pytest.raises(SamplesError, match=re.escape("Resource temporarily unavailable")):
        generated(samples_of(""))


@pytest.mark.parametrize(
    ("printed", "error"),
    [
        ("", ""),
        ("a warning\n", ""),
        ("Traceback:\n  x\nOSError: full\n", "OSError: full"),
        ("A: 1\nModelError: no tokenizer.\nSave it again.", "ModelError: no tokenizer. Save it ag"),
        ("a.BError: one\n\npipeline.errors.DataError: two", "pipeline.errors.DataError: two"),
    ],
)
def test_the_last_error_is_found_among_what_is_printed(printed, error):
    assert last_error_in(printed).startswith(error)
    assert bool(last_error_in(printed)) == bool(error)
