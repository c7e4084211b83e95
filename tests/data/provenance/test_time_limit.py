"""A limit to the time that patterns may take."""

import signal
import threading
import time

import pytest

from pipeline.data.provenance import time_limit as module
from pipeline.data.provenance.score import Scorer
from pipeline.data.provenance.tables import Tables
from pipeline.data.provenance.time_limit import time_limit
from pipeline.errors import ConfigError
from tests.support.provenance import defaults, score, tables

ENDLESS = r"(?:a+)+$"
TEXT = "a" * 60 + "b"
MATCH = r"the text that begins 'aaa.*' takes longer than 0\.2 s\.\nOne of the /regular expressions/"


@pytest.mark.parametrize(
    "changes",
    [
        lambda: {"institutions": {f"/{ENDLESS}/": 1.0}},
        lambda: {"markers": {**defaults()["markers"], "first_hand": [f"/{ENDLESS}/"]}},
        lambda: {"year_patterns": [f"({ENDLESS})"]},
    ],
)
def test_a_pattern_that_would_never_end_is_refused(monkeypatch, changes):
    monkeypatch.setattr(module, "LIMIT_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=MATCH):
        score(TEXT, Scorer(Tables(tables(**changes()))))
    assert time.monotonic() - began < 5
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_timer_and_its_handler_are_put_back():
    before = signal.getsignal(signal.SIGALRM)
    with time_limit("a text"):
        assert signal.getsignal(signal.SIGALRM) is not before
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_in_another_thread_there_is_no_limit(monkeypatch):
    monkeypatch.setattr(module, "LIMIT_SECONDS", 0.01)
    done = []

    def work():
        with time_limit("a text"):
            time.sleep(0.05)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
