"""The worker's side of the talk with its supervisor."""

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.machine import footprint_bytes
from pipeline.train.observer import Watch
from pipeline.train.protocol import Message, Receiver, Sender
from pipeline.train.settings import TrainSettings

BEAT_SECONDS = 1.0


@dataclass(frozen=True)
class Orders:
    """What the supervisor says when it tells a worker to go.

    Attributes:
        num_splits: micro-batches that each micro-batch is split into, after memory ran out.
        deaths: workers that died without getting on; each halves the way to the next checkpoint.
        plan: `none`; `check` makes the plan first, and refuses what cannot fit; `only` ends there.
    """

    reloads: int
    limit_bytes: int
    threshold_bytes: int | None
    interval_steps: int
    allow_inexact: bool
    num_splits: int
    deaths: int
    plan: str

    def changed(self, settings: TrainSettings) -> TrainSettings:
        """Adapt what the configuration says to what has happened to the run."""
        return dataclasses.replace(
            settings,
            grad_accumulation_steps=settings.grad_accumulation_steps * self.num_splits,
            steps_per_save=max(1, settings.steps_per_save >> self.deaths),
        )


class Interrupted(Exception):
    """The supervisor wants the run to stop, and a validation need not be finished for that."""


class Post(Watch):
    """The worker's side of the talk with its supervisor."""

    def __init__(self, receiver: Receiver, sender: Sender) -> None:
        self.sender = sender
        self.go = threading.Event()
        self.stop = threading.Event()
        self.standby: int | None = None
        self.orders: Orders | None = None
        self._receiver = receiver
        self._last_beat = 0.0
        self._pulse = threading.Event()
        for target in (self.listen, self.pulse):
            threading.Thread(target=target, daemon=True).start()

    def listen(self) -> None:
        """Take orders; end this process when there is nobody left to give them."""
        while self._receiver.is_open:
            for message in self._receiver.receive(None):
                self.take(message)
        os._exit(1)

    def take(self, message: Message) -> None:
        """Take one order."""
        order = message.pop("order")
        if order == "go":
            self.orders = Orders(**message)
            self.go.set()
        elif order == "standby":
            self.standby = message["pid"]
        else:
            self.stop.set()

    def tell(self, event: str, **facts: Any) -> None:  # noqa: ANN401
        """Tell the supervisor; without one there is nothing left to do."""
        if not self.sender.send({"event": event, **facts}):
            os._exit(1)

    def footprint_bytes(self) -> int:
        """Measure what worker, supervisor and stand-by hold together."""
        others = [os.getppid(), *([self.standby] if self.standby else [])]
        return footprint_bytes() + sum(map(footprint_bytes, others))

    def beat(self) -> None:
        """Tell now and then that a long validation goes on; end it where a stop is wanted."""
        if self.stop.is_set():
            raise Interrupted
        now = time.monotonic()
        if now - self._last_beat > BEAT_SECONDS:
            self._last_beat = now
            self.tell("beat")

    def validated(self, step: int, val_loss: float) -> None:
        """Tell what a validation found."""
        self.tell("validated", step=step, val_loss=val_loss)

    def note(self, text: str) -> None:
        """Tell a person something."""
        self.tell("note", text=text)

    @contextlib.contextmanager
    def beats(self) -> Iterator[None]:
        """Tell by itself that work goes on which has no steps."""
        self._pulse.set()
        try:
            yield
        finally:
            self._pulse.clear()

    def pulse(self) -> None:
        """Beat while wanted; the thread is there from the start, when memory is not yet short."""
        while self._pulse.wait():
            self.tell("beat")
            time.sleep(BEAT_SECONDS)


class NoteHandler(logging.Handler):
    """Sends warnings to where the person looks."""

    def __init__(self, post: Post) -> None:
        super().__init__(logging.WARNING)
        self.post = post

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        self.post.tell("note", text=record.getMessage())
