"""Signals that end a comparison early."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from pipeline.errors import Stopped
from pipeline.train.supervise.signals import STOPPING


@contextlib.contextmanager
def stop_at_signal() -> Iterator[None]:
    """End the block at the first signal; later signals do not disturb the clean-up.

    A signal that is ignored, as under `nohup`, stays ignored. Within the block the signal raises
    `KeyboardInterrupt`, which no handler of ordinary errors catches.

    Raises:
        Stopped: when a signal ended the block.
    """
    came: list[int] = []

    def take(number: int, frame: FrameType | None) -> None:
        del frame
        came.append(number)
        if len(came) == 1:
            raise KeyboardInterrupt

    heeded = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, take) for number in heeded}
    try:
        yield
    except KeyboardInterrupt:
        if not came:
            raise
        name = signal.Signals(came[0]).name
        text = f"{name} came: ended before its time. Started again, it measures anew."
        raise Stopped(text, came[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
