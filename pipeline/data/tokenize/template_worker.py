"""The process in which chat templates run, within limits: `python -m` this module.

A template is a foreign program. Time is counted by the system, which ends this process; memory is
bounded by the system where it can (Linux), and by the process that reads the answers.
"""

import contextlib
import marshal
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import orjson

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Conversation
from pipeline.data.tokenize.chat import Turn, check_letters, shortened, turns_of
from pipeline.data.tokenize.closing import Closing, closing_of
from pipeline.data.tokenize.template import ChatTemplate

LIMIT_SECONDS, SECONDS_A_MESSAGE = 2.0, 0.02
"""Time of the processor that one row may take, and what each message adds to it."""
LIMIT_BYTES = 400 * 10**6
"""Memory that templates may take beside what the process has when it starts."""
OUT_OF_MEMORY = 75
"""The exit status of a process that has too little memory to answer."""
TOO_MUCH_MEMORY = f"the chat template takes more than {LIMIT_BYTES // 10**6} MB of memory"
LENGTH = struct.Struct("<Q")
"""Each message begins with the number of its bytes."""


def main() -> None:
    """Answer requests until there are no more."""
    limit_memory()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    try:
        with open(0, "rb") as requests, open(1, "wb") as answers:
            while request := read_message(requests):
                for answer in answers_to(*marshal.loads(request)):
                    answers.write(LENGTH.pack(len(answer)) + answer)
                    answers.flush()
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)
    except BrokenPipeError:  # nobody reads the answers any more
        os._exit(0)


def limit_memory() -> None:
    """Have the system refuse more memory, and write no image of a process that it ends.

    macOS refuses nothing.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + LIMIT_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def read_message(stream: BufferedIOBase) -> bytes:
    """Read one message; nothing where there are no more."""
    length = stream.read(LENGTH.size)
    return stream.read(*LENGTH.unpack(length)) if len(length) == LENGTH.size else b""


def request_of(
    template: ChatTemplate, train_on: str, conversations: Sequence[Conversation]
) -> bytes:
    """Write a request."""
    rows = [(each.messages, each.tools, each.weights) for each in conversations]
    message = marshal.dumps((marshal.dumps((*template,)), train_on, rows))
    return LENGTH.pack(len(message)) + message


def answers_to(template: bytes, train_on: str, rows: list[Any]) -> Iterator[bytes]:
    """Yield how the template closes an answer; then, for each row, its turns or what is wrong."""
    with limited(LIMIT_SECONDS):
        chat_template, closing = opened(template)
    yield orjson.dumps([closing.text, closing.token])
    for messages, tools, weights in rows:
        with limited(LIMIT_SECONDS + SECONDS_A_MESSAGE * len(messages)):
            conversation = Conversation(messages, tools, weights)
            yield answer_to(chat_template, closing, conversation, train_on)


@lru_cache(maxsize=1)
def opened(template: bytes) -> tuple[ChatTemplate, Closing]:
    """Read a template, and find how it closes an answer."""
    found = ChatTemplate(*marshal.loads(template))
    return found, closing_of(found)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End this process when the block takes longer, by the time of the processor."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def answer_to(
    template: ChatTemplate, closing: Closing, conversation: Conversation, train_on: str
) -> bytes:
    """Write the turns of a conversation, or what is wrong with it as one text."""
    try:
        turns = turns_of(template, closing, conversation, train_on)
        return orjson.dumps([*written(turns, conversation)])
    except RowError as error:
        return orjson.dumps(str(error))
    except MemoryError:
        return orjson.dumps(TOO_MUCH_MEMORY)
    except orjson.JSONEncodeError:  # half a surrogate pair, which no row has
        return orjson.dumps("the chat template writes characters that UTF-8 does not have")


def written(turns: Iterable[Turn], conversation: Conversation) -> Iterator[tuple[Any, ...]]:
    """Yield the values of shortened turns, as long as they are not too long for the conversation.

    Raises:
        RowError: when they are.
    """
    said, letters = len(marshal.dumps((conversation.messages, conversation.tools))), 0
    for turn in shortened(turns):
        letters += len(turn.prompt) + len(turn.answer)
        check_letters(letters, said)
        yield (*turn,)


if __name__ == "__main__":
    main()
