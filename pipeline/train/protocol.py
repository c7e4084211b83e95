"""How supervisor and worker talk: lines of JSON over pipes, one message a line.

A worker tells `{"event": …}` on what was its standard output; it is told `{"order": …}` on its
standard input, whose end means that the supervisor is gone.
"""

import json
import os
import select
import threading
from typing import Any

Message = dict[str, Any]
BLOCK_BYTES = 1 << 16


class Sender:
    """Writes messages to a file descriptor, from any thread.

    A pipe takes a long message in several parts; without the lock, the heartbeat of another thread
    would come to stand between them.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, message: Message) -> bool:
        """Send one message; False when nobody is there to read it."""
        data = (json.dumps(message) + "\n").encode()
        with self._lock:
            try:
                while data:
                    data = data[os.write(self.descriptor, data) :]
            except BrokenPipeError:
                return False
        return True


class Receiver:
    """Reads messages from a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.is_open = True
        self._rest = b""

    def receive(self, timeout_seconds: float | None) -> list[Message]:
        """Give the messages that have come; none when the time is over or the sender is gone.

        Args:
            timeout_seconds: how long to wait for the first one; None waits as long as it takes.
        """
        if not self.is_open or not select.select([self.descriptor], [], [], timeout_seconds)[0]:
            return []
        block = os.read(self.descriptor, BLOCK_BYTES)
        self.is_open = bool(block)
        *lines, self._rest = (self._rest + block).split(b"\n")
        return [json.loads(line) for line in lines]
