"""Faults of the machine around a run: a full disk, a jumping clock, other numerics, no memory."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
DAYS = 86400


def test_other_numerics_are_refused_or_recorded(training, undisturbed):
    run = training().start()
    run.wait_for_step(3)
    run.process.kill()
    run.process.wait()
    assert run.start(TIDEWHEEL_BLAS="none").end() == 74
    assert "numbers may come out differently now (blas: " in run.text()
    assert "train.resume_allow_inexact=true" in run.text()
    run.complete()
    assert run.result() == undisturbed()


def test_going_on_inexactly_is_recorded_in_the_metrics(training, undisturbed):
    run = training(settings={"resume_allow_inexact": True}).start()
    run.wait_for_step(3)
    run.process.kill()
    run.process.wait()
    run.complete(TIDEWHEEL_BLAS="none")
    (why,) = run.metrics()["inexact"]
    assert "blas: " in why
    assert run.metrics()["val_loss"] == pytest.approx(undisturbed()[3]["val_loss"], rel=1e-4)


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is absent (Debian: libfaketime)")
@pytest.mark.parametrize("jump", ["+3d", "-3d", "@2038-01-19 03:14:05"])
def test_a_clock_that_jumps_disturbs_nothing(training, undisturbed, tmp_path, jump):
    clock = tmp_path / "clock"
    clock.write_text("+0d")
    run = training(settings={"reload_interval_steps": 6}).start(
        LD_PRELOAD=str(FAKETIME),
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    run.wait_for_step(3)
    clock.write_text(jump)
    assert run.end() == 0, run.text()
    assert run.result() == undisturbed()
    assert not run.journal("death")
    assert 0 < run.metrics()["wall_seconds"] < DAYS
    assert 0 < run.metrics()["reload_seconds"] < DAYS
    times = [entry["unix_seconds"] for entry in run.journal("start") + run.journal("reload")]
    assert abs(times[1] - times[0]) > 2 * DAYS  # the clock did jump


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 4 MB that this process sees too, or skip."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here: that needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk):
    """Take all the room there is."""
    filling = disk / "filling"
    with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return filling


def test_a_full_disk_costs_saves_but_not_the_run(training, undisturbed, small_disk):
    changes = {"train__num_steps": 400, "train__steps_per_eval": 100, "train__steps_per_save": 5}
    run = training(**changes)
    run.move_to(small_disk)
    run.start()
    run.wait_for_step(20)
    filling = fill(small_disk)
    run.wait_until(lambda: "Training goes on; the next save tries again" in run.text())
    filling.unlink()
    assert run.end() == 0, run.text()
    assert run.result() == undisturbed(**changes)


def test_a_disk_that_is_full_from_the_start_ends_the_run_with_its_own_code(training, small_disk):
    run = training()
    run.move_to(small_disk)
    run.start()
    run.wait_until(run.workers)
    fill(small_disk)
    assert run.end() == 74, run.text()
    assert "MB are free. Make room there." in run.text()
    assert "Traceback" not in run.text()


@pytest.fixture
def little_memory():
    """Make a cgroup that grants 400 MB, or skip."""
    folder = MEMORY_CGROUP / f"tidewheel-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(400 * 10**6))
    except OSError:
        pytest.skip("no memory cgroup can be made here: that needs root and version 1")
    yield folder
    folder.rmdir()


def test_a_worker_that_the_kernel_kills_for_memory_is_replaced(
    training, undisturbed, little_memory
):
    run = training(debug__leak_mb_per_step=60.0).start()
    run.wait_for_step(3)
    (little_memory / "cgroup.procs").write_text(str(run.workers()[0].pid))
    assert run.end() == 0, run.text()
    assert run.result() == undisturbed()
    assert "SIGKILL" in run.journal("death")[0]["cause"]


def test_two_trainings_of_one_run_do_not_mix(training):
    first = training(train__num_steps=4000).start()
    first.wait_for_step(3)
    second = training(train__num_steps=4000)
    assert second.start().end() == 74
    assert f"already under way, in process {first.process.pid}" in second.text()
    first.process.send_signal(signal.SIGTERM)
    assert first.end() == 143
    time.sleep(0.1)
    third = training(train__num_steps=4000).start()  # a lock that is left behind is harmless
    third.wait_until(lambda: third.journal("recovery"))
    third.process.send_signal(signal.SIGTERM)
    assert third.end() == 143
