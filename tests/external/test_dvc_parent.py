"""Who started a stage, and whether it is still there."""

import subprocess
import sys

import psutil
import pytest

from pipeline.train.supervise.dvc_parent import DvcParent


def test_a_stage_that_is_run_by_hand_has_none(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert DvcParent.find() is None


def test_shells_between_are_passed_over(monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train")
    found = DvcParent.find()
    assert found is not None
    assert found.process.name() not in {"sh", "bash"}
    assert found.process in psutil.Process().parents()


@pytest.mark.parametrize("is_reaped", [False, True])
def test_its_end_is_noticed(is_reaped, monkeypatch):
    monkeypatch.setattr("pipeline.train.supervise.dvc_parent.LOOK_SECONDS", 0.0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        dvc_parent = DvcParent(psutil.Process(process.pid))
        assert not dvc_parent.is_gone()
        process.kill()
        if is_reaped:
            process.wait()
        while not dvc_parent.is_gone():
            pass
