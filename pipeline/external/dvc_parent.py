"""The `dvc` process that runs a stage; when it is killed, the stage ends too."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import psutil

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh"})
LOOK_SECONDS = 1.0


def end_with_dvc(before: Callable[[], None]) -> None:
    """End this process by SIGTERM soon after the `dvc` that started it is gone.

    A stage that runs by hand has none, and goes on when its terminal is gone.

    Args:
        before: called first.
    """
    if "DVC_STAGE" in os.environ:
        parents = (one for one in psutil.Process().parents() if one.name() not in SHELLS)
        dvc = next(parents, None)
        if dvc is not None:
            threading.Thread(target=watch, args=(dvc, before), daemon=True).start()


def watch(dvc: psutil.Process, before: Callable[[], None]) -> None:
    """Wait until a process is gone, then end this one."""
    while is_alive(dvc):
        time.sleep(LOOK_SECONDS)
    before()
    stage = os.environ["DVC_STAGE"]
    print(f"{stage}: the dvc that started this stage is gone, so it ends", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs, and is no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
