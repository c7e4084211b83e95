"""The `dvc` process that runs a stage; when it is killed, the stage should stop too."""

import os
import time

import psutil

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh"})
LOOK_SECONDS = 1.0


class DvcParent:
    """The `dvc` process that started this one."""

    def __init__(self, process: psutil.Process) -> None:
        self.process = process
        self._looked = 0.0

    @staticmethod
    def find() -> "DvcParent | None":
        """Return it; None for a stage that is run by hand."""
        if "DVC_STAGE" not in os.environ:
            return None
        parents = (one for one in psutil.Process().parents() if one.name() not in SHELLS)
        found = next(parents, None)
        return DvcParent(found) if found else None

    def is_gone(self) -> bool:
        """Whether it has ended; checked at most once a second."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        try:
            return not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
