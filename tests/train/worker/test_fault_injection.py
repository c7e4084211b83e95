"""Faults on purpose, to see how training takes them."""

import os
import signal

from pipeline.train.worker.fault_injection import FaultInjection


def test_a_worker_is_killed_once_in_a_run(tmp_path, monkeypatch):
    kills = []
    monkeypatch.setattr(os, "kill", lambda pid, number: kills.append(number))
    for _ in range(2):  # the second worker passes the same step
        faults = FaultInjection({"leak_mb_per_step": 0, "kill_at_step": 2}, tmp_path)
        faults.after_step(1)
        faults.after_step(2)
    assert kills == [signal.SIGKILL]


def test_memory_leaks_every_step(tmp_path):
    faults = FaultInjection({"leak_mb_per_step": 0.5, "kill_at_step": None}, tmp_path)
    faults.after_step(1)
    faults.after_step(2)
    assert [len(part) for part in faults._hoard] == [faults.leak_bytes] * 2
    assert faults.leak_bytes > 0


def test_without_the_section_nothing_happens(tmp_path):
    faults = FaultInjection(None, tmp_path)
    faults.after_step(1)
    assert faults._hoard == []
