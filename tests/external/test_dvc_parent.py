"""A stage ends with the `dvc` that started it, and by hand it does not."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from pipeline.external import dvc_parent
from pipeline.external.dvc_parent import is_alive
from tests.support.small import ROOT

STAGE = """
import time
from pipeline.external import dvc_parent
dvc_parent.LOOK_SECONDS = 0.01
dvc_parent.end_with_dvc(lambda: print("ending", flush=True))
print("started", flush=True)
time.sleep(60)
"""
DVC = """
import subprocess, sys
process = subprocess.Popen(sys.argv[1:])
print(process.pid, flush=True)
process.wait()
"""


def start(monkeypatch, shell, under_dvc):
    """Start a stage as `dvc` does; return both processes."""
    monkeypatch.delenv("DVC_STAGE", raising=False)
    if under_dvc:
        monkeypatch.setenv("DVC_STAGE", "prepare")
    stage = [sys.executable, "-c", STAGE]
    if shell:
        stage = ["sh", "-c", '"$@"; exit $?', "sh", *stage]
    command = [sys.executable, "-c", DVC, *stage]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    dvc = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
    started = psutil.Process(int(dvc.stdout.readline()))
    assert dvc.stdout.readline() == "started\n"
    return dvc, started


@pytest.mark.parametrize("shell", [False, True])
def test_a_stage_ends_soon_after_its_dvc(monkeypatch, shell):
    dvc, stage = start(monkeypatch, shell, under_dvc=True)
    dvc.kill()
    out, err = dvc.communicate(timeout=20)  # until the stage has closed its ends of the pipes
    assert out == "ending\n"
    assert err.startswith("prepare: the dvc that started this stage is gone, so it ends\n")
    psutil.wait_procs([stage], timeout=20)
    assert not stage.is_running()


def test_a_stage_by_hand_goes_on(monkeypatch):
    dvc, stage = start(monkeypatch, shell=False, under_dvc=False)
    dvc.kill()
    dvc.wait()
    time.sleep(0.3)
    assert stage.is_running()
    stage.kill()
    assert dvc.communicate() == ("", "")


def test_its_end_is_the_signal_that_a_training_saves_at(monkeypatch):
    sent = []
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setattr(dvc_parent, "is_alive", lambda process: False)
    monkeypatch.setattr(dvc_parent.os, "kill", lambda pid, number: sent.append(number))
    dvc_parent.watch(psutil.Process(), lambda: None)
    assert sent == [signal.SIGTERM]


@pytest.mark.parametrize("is_reaped", [False, True])
def test_a_dead_process_is_not_alive_also_as_a_zombie(is_reaped):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        seen = psutil.Process(process.pid)
        assert is_alive(seen)
        process.kill()
        if is_reaped:
            process.wait()
        while is_alive(seen):
            pass
