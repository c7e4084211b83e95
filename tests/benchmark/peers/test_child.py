"""Processes of the comparison, which end when the comparison ends, however it ends."""

import signal
import subprocess
import sys

from pipeline.benchmark.peers import child


def test_a_process_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.1)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); "
    command = [sys.executable, "-c", f"{deaf}input()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        child.end(process)
    assert process.returncode == -signal.SIGKILL
