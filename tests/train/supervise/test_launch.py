"""What the end of a process tells."""

import signal

import pytest

from pipeline.train.supervise.launch import exit_text, is_memory_death


@pytest.mark.parametrize(
    ("status", "text", "is_memory"),
    [
        (1, "exit status 1", False),
        (-signal.SIGKILL, "SIGKILL (killed, perhaps for memory)", True),
        (-signal.SIGSEGV, "SIGSEGV (as when MLX cannot allocate)", True),
        (-signal.SIGTERM, "SIGTERM", False),
    ],
)
def test_the_end_of_a_process(status, text, is_memory):
    assert exit_text(status) == text
    assert is_memory_death(status) is is_memory
