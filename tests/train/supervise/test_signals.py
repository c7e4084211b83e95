"""Signals: the first is heard, the second ends it."""

import os
import signal

import pytest

from pipeline.errors import Stopped
from pipeline.train.supervise.signals import StopSignals


def test_the_first_signal_is_remembered_and_the_second_one_raises():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert signals.number is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.number == signal.SIGTERM
        with pytest.raises(Stopped, match="A second signal came") as caught:
            os.kill(os.getpid(), signal.SIGINT)
        assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) is before


def test_under_nohup_the_end_of_the_terminal_does_not_stop_a_run():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.number is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
