"""Asks a process with limits for what chat templates write (see `template_worker`)."""

import atexit
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

import orjson

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Conversation
from pipeline.data.tokenize.chat import Turn
from pipeline.data.tokenize.closing import Closing
from pipeline.data.tokenize.template import ChatTemplate
from pipeline.data.tokenize.template_worker import (
    LENGTH,
    LIMIT_BYTES,
    LIMIT_SECONDS,
    OUT_OF_MEMORY,
    SECONDS_A_MESSAGE,
    TOO_MUCH_MEMORY,
    request_of,
)
from pipeline.errors import ModelError
from pipeline.files import ROOT
from pipeline.machine import footprint_bytes

PROGRAM = "pipeline.data.tokenize.template_worker"
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
MOST_BYTES = LIMIT_BYTES + 100 * 10**6
"""Templates, and what the process has when it starts: 40 MB."""
SAMPLE_SECONDS = 0.02
READ_BYTES = 1 << 20
MAX_ENDS = 20
"""So many rows may end the process; the others are then refused without being tried."""
TOO_LONG = (
    f"the chat template takes longer than {LIMIT_SECONDS:g} s, and {SECONDS_A_MESSAGE:g} s more "
    "for each message"
)


class ProcessEnded(Exception):
    """The process has ended, or was ended; the reason is a sentence without its end."""


class TemplateProcess:
    """One process for all templates, started when the first one is applied."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()
        atexit.register(self.end)

    def ask(self, request: bytes, count: int) -> tuple[list[bytes], str]:
        """Return the answers to a request, and why there are fewer than asked for.

        Args:
            request: of `request_of`.
            count: how many answers it has.
        """
        answers = list[bytes]()
        with self.lock:
            try:
                channel = Channel(self.running())
                channel.send(request)
                while len(answers) < count:
                    answers.append(channel.next_answer())
            except ProcessEnded as error:
                self.end()
                return answers, str(error)
            except BaseException:
                self.end()  # the rest of its answers would be taken for those to the next request
                raise
        return answers, ""

    def running(self) -> subprocess.Popen[bytes]:
        """Return the process; start it where there is none.

        It gets its own session, so that Ctrl-C in a terminal does not reach it. It ends when its
        pipe is closed, as it is when this process ends in any way.
        """
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                env=ENVIRONMENT | os.environ,
                bufsize=0,
                start_new_session=True,
            )
        return self.process

    def end(self) -> None:
        """End the process, if there is one."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe
                pipe.close()


class Channel:
    """Sends one request and receives the answers, with an eye on the memory of the process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        assert process.stdout
        self.process, self.stdin, self.stdout = process, process.stdin, process.stdout
        self.received = bytearray()

    def send(self, request: bytes) -> None:
        """Send a request; that a dead process does not read it shows when it does not answer."""
        view = memoryview(request)
        with suppress(BrokenPipeError):
            while view:
                view = view[self.stdin.write(view) :]

    def next_answer(self) -> bytes:
        """Return the next answer.

        Raises:
            ProcessEnded: when the process has ended, or holds too much memory.
        """
        size = int(*LENGTH.unpack(self.take(LENGTH.size)))
        if size > LIMIT_BYTES:
            raise ProcessEnded(TOO_MUCH_MEMORY)
        return self.take(size)

    def take(self, size: int) -> bytes:
        """Wait for so many bytes and return them."""
        while len(self.received) < size:
            self.wait()
            block = os.read(self.stdout.fileno(), READ_BYTES)
            if not block:
                raise ProcessEnded(reason_of(self.process.wait()))
            self.received += block
        taken = bytes(self.received[:size])
        del self.received[:size]
        return taken

    def wait(self) -> None:
        """Wait until there is something to receive.

        Raises:
            ProcessEnded: when the process holds too much memory.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self.stdout, selectors.EVENT_READ)
            while not selector.select(SAMPLE_SECONDS):
                if footprint_bytes(self.process.pid) > MOST_BYTES:
                    raise ProcessEnded(TOO_MUCH_MEMORY)


def reason_of(status: int) -> str:
    """Describe why the process has ended, by its exit status."""
    known = {-signal.SIGPROF: TOO_LONG, OUT_OF_MEMORY: TOO_MUCH_MEMORY}
    return (
        known.get(status)
        or f"the chat template ended the process that applies it (exit status {status})"
    )


PROCESS = TemplateProcess()


class AppliedTemplate:
    """A template that is applied to many conversations, in the process of all templates.

    Args:
        template: of the model.
        train_on: which answers are learnt: all, or the last.
    """

    def __init__(self, template: ChatTemplate, train_on: str) -> None:
        self.template, self.train_on = template, train_on
        self.ends = 0

    def closing(self) -> Closing:
        """Find how the template closes an answer.

        Raises:
            ModelError: when it takes more time or memory than it may have for two messages.
        """
        answers, reason = PROCESS.ask(request_of(self.template, self.train_on, []), 1)
        if not answers:
            raise ModelError(
                f"model.source: {reason}, for a question of one word.\nChoose another template."
            )
        text, token = orjson.loads(answers[0])
        return Closing(text, token, self.template.control_tokens)

    def turns(self, conversations: Sequence[Conversation]) -> list[list[Turn] | RowError]:
        """Return the turns of each conversation, shortened, or what is wrong with it."""
        found = list[list[Turn] | RowError]()
        while len(found) < len(conversations) and self.ends < MAX_ENDS:
            rest = conversations[len(found) :]
            request = request_of(self.template, self.train_on, rest)
            answers, reason = PROCESS.ask(request, 1 + len(rest))
            found += [read(answer) for answer in answers[1:]]
            if reason:
                self.ends += 1
                found.append(RowError(f"{reason}; shorten the row, or choose another template"))
        refused = f"not tried, as {MAX_ENDS} rows before ended the process of the chat template"
        return found + [RowError(refused)] * (len(conversations) - len(found))


def read(answer: bytes) -> list[Turn] | RowError:
    """Read an answer: turns, shortened, or what is wrong with the row."""
    value = orjson.loads(answer)
    return RowError(value) if isinstance(value, str) else [Turn(*turn) for turn in value]
