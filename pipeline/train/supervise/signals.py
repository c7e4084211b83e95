"""Signals that ask a run to stop: after the first it saves, the second ends it at once."""

import signal
from types import FrameType

from pipeline.errors import Stopped

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Handles the signals while its block runs.

    Attributes:
        number: the first signal that has come; None before it.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __enter__(self) -> "StopSignals":
        """Install the handlers; under `nohup` the end of the terminal stays ignored."""
        ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        heeded = [each for each in STOPPING if not (each == signal.SIGHUP and ignores_hangup)]
        self._old = {number: signal.signal(number, self.take) for number in heeded}
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the handlers of before."""
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def take(self, number: int, frame: FrameType | None) -> None:
        """Record the first signal.

        Raises:
            Stopped: when it is the second.
        """
        del frame
        if self.number is not None:
            raise Stopped("A second signal came: ended at once. Start it again to go on.", number)
        self.number = number
