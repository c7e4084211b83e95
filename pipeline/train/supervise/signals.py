"""Signals that ask a run for its end: the first one is heard, the second one ends it at once."""

import signal
from types import FrameType

from pipeline.errors import Stopped

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Takes the signals while its block runs.

    Attributes:
        number: the first signal that has come; None before that.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __enter__(self) -> "StopSignals":
        """Take them."""
        self._old = {number: signal.signal(number, self.take) for number in STOPPING}
        return self

    def __exit__(self, *error: object) -> None:
        """Leave them to whoever had them before."""
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def take(self, number: int, frame: FrameType | None) -> None:
        """Remember a first signal.

        Raises:
            Stopped: when it is the second.
        """
        del frame
        if self.number is not None:
            raise Stopped("A second signal came: ended at once. Start it again to go on.", number)
        self.number = number
