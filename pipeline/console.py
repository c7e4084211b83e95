"""What a person sees while a stage works: a bar in a terminal, plain lines elsewhere.

What is printed by a run by hand also goes to the log in its folder, each line with its time.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status

from pipeline.errors import printable_lines

SECONDS_BETWEEN_LINES = 5.0
LEAST_SECONDS = 1.0
"""Before, nothing is known of the time left."""
GB = 10**9


class Log:
    """The file that takes what is printed; none while `file` is None."""

    file: Path | None = None


def write_log(text: str) -> None:
    """Append lines to the log, each with its time; a disk that refuses them stops nothing."""
    if Log.file is None:
        return
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    with contextlib.suppress(OSError), Log.file.open("a", encoding="utf-8") as file:
        file.writelines(f"{now}  {line}\n" for line in text.split("\n"))


@contextlib.contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """Write what is printed to a file too, until the end of the `with`."""
    Log.file = file
    try:
        yield
    finally:
        Log.file = None


def print_line(text: str) -> None:
    """Print lines for a person, to the letter; controls in them are escaped."""
    text = printable_lines(text)
    print(text, file=sys.stderr, flush=True)
    write_log(text)


class Clock:
    """When something that is done bit by bit will have been done.

    Attributes:
        began: when this process began to work on it.
        done_before: how much had been done by then.
    """

    def __init__(self) -> None:
        self.began, self.done_before = time.monotonic(), 0

    def line(self, done: int, total: int) -> str:
        """Word the time that has passed, and the time left where it can be estimated."""
        passed, own = time.monotonic() - self.began, done - self.done_before
        text = f"{in_hours(passed)} passed"
        if own > 0 and done < total and passed > LEAST_SECONDS:
            text += f", {in_hours(passed / own * (total - done))} left"
        return text


def in_hours(seconds: float) -> str:
    """Write a time as hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Throttle:
    """Limits something to once in `SECONDS_BETWEEN_LINES`."""

    def __init__(self) -> None:
        self.last = -SECONDS_BETWEEN_LINES

    def is_due(self) -> bool:
        """Whether it may happen now; it is then taken to happen."""
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return False
        self.last = now
        return True


class StageProgress:
    """A bar with what is done and the time left; plain lines where there is no terminal."""

    def __init__(self, title: str, total: int) -> None:
        self.console = Console(file=sys.stderr)
        self.total, self.done = total, 0
        self.clock, self.throttle = Clock(), Throttle()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.title = title
        self.task = self.bar.add_task(title, total=total, facts="")

    def __enter__(self) -> "StageProgress":
        """Start to draw."""
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the terminal as it was."""
        self.bar.stop()

    def start_at(self, done: int) -> None:
        """Start the bar where something is done already, which does not count for the time left."""
        self.bar.update(self.task, completed=done)
        self.done = self.clock.done_before = done

    def show(self, done: int, facts: str) -> None:
        """Show how much is done, and facts of it."""
        self.bar.update(self.task, completed=done, facts=facts)
        self.done = done
        if self.throttle.is_due() or done == self.total:
            line = f"{self.title} {done}/{self.total}  {facts}  {self.clock.line(done, self.total)}"
            write_log(line)
            if self.bar.disable:
                print(line, file=sys.stderr, flush=True)

    def advance(self, facts: str = "") -> None:
        """Show that one more part is done."""
        self.show(self.done + 1, facts)

    def note(self, text: str) -> None:
        """Print lines above the bar, in which brackets are not markup, and controls are escaped."""
        text = printable_lines(text)
        self.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)
        write_log(text)


class TrainingProgress(StageProgress):
    """A bar with loss, speed, memory and time left."""

    def step(self, step: int, loss: float, tokens_per_second: float, footprint_bytes: int) -> None:
        """Show one more step."""
        memory = f"{footprint_bytes / GB:.2f} GB"
        self.show(step, f"loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s  {memory}")


class RowCounter(Status):
    """Counts rows while they are read; their number is not known beforehand."""

    def __init__(self, title: str) -> None:
        self.is_terminal = Console(file=sys.stderr).is_terminal
        super().__init__(f"{title} ...", console=Console(file=sys.stderr))
        self.title, self.throttle = title, Throttle()
        self.throttle.is_due()  # a short preparation prints nothing but its result

    def show(self, what: str, rows: int) -> None:
        """Show how many rows are done."""
        text = f"{self.title}: {what}, {rows:,} rows"
        self.update(text)
        if self.throttle.is_due():
            write_log(text)
            if not self.is_terminal:
                print(text, file=sys.stderr, flush=True)
