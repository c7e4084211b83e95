"""Signals that ask a comparison for its end."""

import signal
from types import FrameType

from pipeline.errors import Stopped
from pipeline.train.supervise.signals import STOPPING


class StopAtSignal:
    """Breaks its block off at the first signal; while it is left, further ones change nothing.

    A signal that is ignored, as `nohup` has it, stays ignored. Within the block it is a
    `KeyboardInterrupt`, which nobody takes for an error that one can live with.

    Attributes:
        number: the signal that has come; None before that.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __enter__(self) -> "StopAtSignal":
        """Take the signals."""
        heard = [each for each in STOPPING if signal.getsignal(each) != signal.SIG_IGN]
        self._old = {number: signal.signal(number, self.take) for number in heard}
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Leave them to whoever had them before.

        Raises:
            Stopped: when the block was broken off.
        """
        for number, handler in self._old.items():
            signal.signal(number, handler)
        if kind is KeyboardInterrupt and self.number is not None:
            name = signal.Signals(self.number).name
            text = f"{name} came: ended before its time. Started again, it measures anew."
            raise Stopped(text, self.number) from None

    def take(self, number: int, frame: FrameType | None) -> None:
        """Break off at the first signal.

        Raises:
            KeyboardInterrupt: at the first one.
        """
        del frame
        if self.number is None:
            self.number = number
            raise KeyboardInterrupt
