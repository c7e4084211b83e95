"""Signals that end a comparison early."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from pipeline.errors import Stopped
from pipeline.train.supervise.signals import STOPPING


@contextlib.contextmanager
def stop_at_signal() -> Iterator[None]:
    """End the block at the first signal, and ignore later ones, so that the clean-up can finish.

    A signal that is ignored before, as under `nohup`, stays ignored. The first signal raises
    `KeyboardInterrupt` in the block, because no handler of ordinary errors catches that.

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
        text = f"{name}: the comparison was stopped. Started again, it measures everything again."
        raise Stopped(text, came[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
