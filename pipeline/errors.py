"""The errors that a user can cause; a stage prints them without a traceback and exits with 1.

A message has three parts: what is wrong with its value, where, and what to do. All problems of
one kind are gathered before raising (`report_problems`).
"""

import re
from collections.abc import Sequence

MAX_LISTED_PROBLEMS = 20


class PipelineError(Exception):
    """Something the user can mend; the message says how.

    Names of files and tensors come from strangers: control characters in them are escaped, so that
    no message can move the cursor or hide what it names.

    Attributes:
        exit_code: what the process ends with.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        parts = re.split(r"([\n\t])", message)
        super().__init__("".join(part if part in "\n\t" else printable(part) for part in parts))


class ConfigError(PipelineError):
    """A parameter is unknown, of the wrong type, or out of range."""


class DataError(PipelineError):
    """A row, a file of rows, or the set of rows as a whole cannot be used."""


class ModelError(PipelineError):
    """A model folder is incomplete, damaged, unsafe, or of an unknown kind."""


class DeviceError(PipelineError):
    """The machine or its libraries cannot do what was asked."""


class CheckpointError(PipelineError):
    """No checkpoint can be written, or none that exists can be used."""

    exit_code = 74  # EX_IOERR of sysexits.h


class StorageError(PipelineError):
    """A file or folder cannot be read or written: the disk, its rights, or a limit refuses."""

    exit_code = 74  # EX_IOERR of sysexits.h


class TrainingError(PipelineError):
    """Training cannot go on without spoiling the weights."""


class WorkerError(PipelineError):
    """Worker processes die again and again without progress."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h


class Stopped(PipelineError):
    """A signal has stopped the run; its state is on the disk."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class ExportError(PipelineError):
    """An exported model does not agree with the trained one."""


def printable(text: str) -> str:
    """Return a text with escapes for what is no letter: controls, and bytes that are no UTF-8."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def printable_lines(text: str) -> str:
    """Return a text whose line feeds are kept, with escapes for other controls."""
    return "\n".join(map(printable, text.split("\n")))


def report_problems(
    kind: type[PipelineError], headline: str, problems: Sequence[str], remedy: str = ""
) -> None:
    """Raise one error that lists every problem; do nothing where there is none."""
    if not problems:
        return
    listed = [f"  {printable(problem)}" for problem in problems[:MAX_LISTED_PROBLEMS]]
    if len(problems) > MAX_LISTED_PROBLEMS:
        listed.append(f"  and {len(problems) - MAX_LISTED_PROBLEMS} more")
    raise kind("\n".join([headline, *listed, *([remedy] if remedy else [])]))
