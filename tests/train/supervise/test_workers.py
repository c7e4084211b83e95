"""Workers: how their end is described."""

import signal

import pytest

from pipeline.train.supervise.workers import exit_text, is_memory_death


@pytest.mark.parametrize(
    ("status", "text", "is_memory"),
    [
        (1, "exit status 1", False),
        (-signal.SIGKILL, "SIGKILL: killed, perhaps because memory ran out", True),
        (-signal.SIGSEGV, "SIGSEGV: perhaps because MLX could not allocate memory", True),
        (-signal.SIGTERM, "SIGTERM", False),
    ],
)
def test_the_end_of_a_process(status, text, is_memory):
    assert exit_text(status) == text
    assert is_memory_death(status) is is_memory
