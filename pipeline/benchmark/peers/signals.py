"""Signals that end a comparison early."""

import signal
from types import FrameType

from pipeline.errors import Stopped
from pipeline.train.supervise.signals import STOPPING


class StopAtSignal:
    """Ends its block at the first signal; later signals do not disturb the clean-up.

    A signal that is ignored, as under `nohup`, stays ignored. Within the block the signal raises
    `KeyboardInterrupt`, which no handler of ordinary errors catches.

    Attributes:
        number: the first signal; None before it.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __enter__(self) -> "StopAtSignal":
        """Install the handlers."""
        heard = [each for each in STOPPING if signal.getsignal(each) != signal.SIG_IGN]
        self._old = {number: signal.signal(number, self.take) for number in heard}
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Restore the earlier handlers.

        Raises:
            Stopped: when a signal ended the block.
        """
        for number, handler in self._old.items():
            signal.signal(number, handler)
        if kind is KeyboardInterrupt and self.number is not None:
            name = signal.Signals(self.number).name
            text = f"{name} came: ended before its time. Started again, it measures anew."
            raise Stopped(text, self.number) from None

    def take(self, number: int, frame: FrameType | None) -> None:
        """End the block at the first signal.

        Raises:
            KeyboardInterrupt: at the first one.
        """
        del frame
        if self.number is None:
            self.number = number
            raise KeyboardInterrupt
