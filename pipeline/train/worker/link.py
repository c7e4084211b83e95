"""The worker's side of the channel to its supervisor."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator

from pipeline.machine import footprint_bytes
from pipeline.train.memory import MemoryGuard
from pipeline.train.observer import Observer
from pipeline.train.protocol import (
    Event,
    Go,
    Heartbeat,
    Note,
    Order,
    Receiver,
    Sender,
    Standby,
    Stop,
    Validated,
)

HEARTBEAT_SECONDS = 1.0


class Interrupted(Exception):
    """The supervisor wants the run to stop; a validation need not be finished first."""


class SupervisorLink(Observer):
    """Sends events to the supervisor, and takes its orders in a thread.

    It is the observer of the training loop.
    """

    def __init__(self, receiver: Receiver, sender: Sender) -> None:
        self._receiver, self._sender = receiver, sender
        self._go: Go | None = None
        self._standby: int | None = None
        self._may_go, self._must_stop = threading.Event(), threading.Event()
        self._is_kept_alive = threading.Event()
        self._last_heartbeat = 0.0
        for target in (self._order_loop, self._heartbeat_loop):
            threading.Thread(target=target, daemon=True).start()

    def _order_loop(self) -> None:
        """Take orders until the supervisor is gone, then end this process."""
        while self._receiver.is_open:
            for order in self._receiver.receive(None):
                self._take(order)
        os._exit(1)

    def _take(self, order: Order) -> None:
        """Take one order."""
        match order:
            case Go():
                self._go = order
                self._may_go.set()
            case Standby(pid):
                self._standby = pid
            case Stop():
                self._must_stop.set()

    def wait_for_go(self) -> tuple[Go, MemoryGuard]:
        """Wait until training may start.

        Returns:
            The order, and the guard of the memory that it grants.
        """
        self._may_go.wait()
        assert self._go is not None
        guard = MemoryGuard(self._go.limit_bytes, self._go.threshold_bytes)
        self.reloads = self._go.reloads
        self.limit_bytes, self.bound_bytes = guard.limit_bytes, guard.bound_bytes
        return self._go, guard

    @property
    def must_stop(self) -> bool:
        """Whether the supervisor wants the run to stop after this step."""
        return self._must_stop.is_set()

    def send(self, event: Event) -> None:
        """Send an event; end this process where the supervisor is gone."""
        if not self._sender.send(event):
            os._exit(1)

    def footprint_bytes(self) -> int:
        """Measure what worker, supervisor and stand-by hold together, in bytes."""
        others = [os.getppid(), *([self._standby] if self._standby else [])]
        return footprint_bytes() + sum(map(footprint_bytes, others))

    def heartbeat(self) -> None:
        """Send a heartbeat, at most one a second.

        Raises:
            Interrupted: where the run must stop.
        """
        if self.must_stop:
            raise Interrupted
        now = time.monotonic()
        if now - self._last_heartbeat > HEARTBEAT_SECONDS:
            self._last_heartbeat = now
            self.send(Heartbeat())

    def validated(self, step: int, val_loss: float) -> None:
        """Send the result of a validation."""
        self.send(Validated(step, val_loss))

    def note(self, text: str) -> None:
        """Send a line for a person."""
        self.send(Note(text))

    @contextlib.contextmanager
    def keep_alive(self) -> Iterator[None]:
        """Send heartbeats from a thread during work that has no steps."""
        self._is_kept_alive.set()
        try:
            yield
        finally:
            self._is_kept_alive.clear()

    def _heartbeat_loop(self) -> None:
        """Send heartbeats while `keep_alive` is active.

        The thread starts with the process, when memory is not yet short.
        """
        while self._is_kept_alive.wait():
            self.send(Heartbeat())
            time.sleep(HEARTBEAT_SECONDS)


class NoteHandler(logging.Handler):
    """Sends warnings to the supervisor, which shows them."""

    def __init__(self, link: SupervisorLink) -> None:
        super().__init__(logging.WARNING)
        self.link = link

    def emit(self, record: logging.LogRecord) -> None:
        """Send one warning."""
        self.link.note(record.getMessage())
