"""Faults on purpose (`+debug=leak`, `+debug=crash`), to see how training takes them."""

import os
import signal
from pathlib import Path
from typing import Any

from pipeline.train.memory import MB


class FaultInjection:
    """Causes the faults of the `debug` section in a worker."""

    def __init__(self, debug: dict[str, Any] | None, run_folder: Path) -> None:
        """Read the `debug` section; None causes no faults."""
        debug = debug or {"leak_mb_per_step": 0, "kill_at_step": None}
        self.leak_bytes = int(debug["leak_mb_per_step"] * MB)
        self.kill_at_step = debug["kill_at_step"]
        self.mark = run_folder / "killed"
        self._hoard: list[bytes] = []

    def after_step(self, step: int) -> None:
        """Leak memory, and die at the chosen step, once in a run."""
        if self.leak_bytes:
            self._hoard.append(b"\1" * self.leak_bytes)  # written to, so that pages are taken
        if step == self.kill_at_step and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
