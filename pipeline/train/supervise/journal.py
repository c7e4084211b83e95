"""The log of a run: every start, reload, death and stop, over all its processes."""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "journal.jsonl"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tally:
    """The sums over a journal.

    Attributes:
        reloads: planned changes of process.
        recoveries: starts after a death or a stop.
        reload_seconds: from the end of the last step in the old process to the start of the first
            one in the new, over all reloads.
        inexact: why the bits may differ from those of an uninterrupted run.
    """

    reloads: int
    recoveries: int
    reload_seconds: float
    inexact: tuple[str, ...]


class Journal:
    """Appends to the journal of a run, and sums it up."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def add(self, what: str, **facts: Any) -> None:  # noqa: ANN401
        """Append an entry with the time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"what": what, "unix_seconds": round(time.time(), 3), **facts})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"\n{line}\n")  # the line before may have been cut short by a kill
        except OSError as error:  # a full disk; the training does not depend on this file
            log.warning("%s: %s could not be written down (%s)", self.path, what, error)

    def entries(self) -> list[dict[str, Any]]:
        """Read all entries; a line that was cut short does not count."""
        if not self.path.exists():
            return []
        lines = filter(None, self.path.read_text(encoding="utf-8").splitlines())
        return [json.loads(line) for line in lines if line.endswith("}")]

    def tally(self) -> Tally:
        """Sum the entries up."""
        entries = self.entries()
        reloads = [entry for entry in entries if entry["what"] == "reload"]
        return Tally(
            reloads=len(reloads),
            recoveries=sum(entry["what"] == "recovery" for entry in entries),
            reload_seconds=sum((entry["seconds"] for entry in reloads), 0.0),
            inexact=tuple(entry["why"] for entry in entries if entry["what"] == "inexact"),
        )
