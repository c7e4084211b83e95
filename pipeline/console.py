"""What a person sees while a stage works: a bar in a terminal, plain lines elsewhere."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status

from pipeline.errors import printable

LINES_WITHOUT_TERMINAL = 20
GB = 10**9


class StageProgress:
    """A bar with what is done and the time left; plain lines where there is no terminal."""

    def __init__(self, title: str, total: int) -> None:
        self.console = Console(file=sys.stderr)
        self.total, self.done = total, 0
        self.every = max(1, total // LINES_WITHOUT_TERMINAL)
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
        self.done = done

    def show(self, done: int, facts: str) -> None:
        """Show how much is done, and facts of it."""
        self.bar.update(self.task, completed=done, facts=facts)
        is_due = done // self.every > self.done // self.every or done == self.total
        if self.bar.disable and is_due:
            print(f"{self.title} {done}/{self.total}  {facts}", file=sys.stderr, flush=True)
        self.done = done

    def note(self, text: str) -> None:
        """Print lines above the bar, in which brackets are not markup, and controls are escaped."""
        text = "\n".join(map(printable, text.split("\n")))
        self.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)


class TrainingProgress(StageProgress):
    """A bar with loss, speed, memory and time left."""

    def step(self, step: int, loss: float, tokens_per_second: float, footprint_bytes: int) -> None:
        """Show one more step."""
        memory = f"{footprint_bytes / GB:.2f} GB"
        self.show(step, f"loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s  {memory}")


class RowCounter(Status):
    """Counts rows while they are read; their number is not known beforehand."""

    def __init__(self, title: str) -> None:
        super().__init__(f"{title} ...", console=Console(file=sys.stderr))
        self.title = title

    def show(self, what: str, rows: int) -> None:
        """Show how many rows are done."""
        self.update(f"{self.title}: {what}, {rows:,} rows")
