"""Limits how long the patterns of the provenance tables may work on one text."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import ConfigError

LIMIT_SECONDS = 10.0
SHOWN_CHARACTERS = 60


@contextmanager
def time_limit(text: str) -> Iterator[None]:
    """Limit the time of a block that matches patterns with a text.

    Python's `re` looks for signals while it matches, so a timer can end it. Only the main thread
    receives signals; in others there is no limit.

    Args:
        text: what is matched, for the message.

    Raises:
        ConfigError: when the time is over.
    """

    def refuse(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise ConfigError(
            f"data.provenance.tables: matching the text that begins {text[:SHOWN_CHARACTERS]!r} "
            f"takes longer than {LIMIT_SECONDS:g} s.\n"
            "One of the /regular expressions/ or year_patterns tries too many ways: write it "
            r"without a repetition inside a repetition, such as (?:\w+ ?)+."
        )

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, refuse)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
