"""The log of a run: every start, reload, death and stop, over all its processes."""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.external.shapes import NUMBER, TEXT, misfits

FILE = "journal.jsonl"
ENTRIES = {"reload": {"seconds": NUMBER}, "inexact": {"why": TEXT}}
"""What an entry must have, where it is read again."""
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
        line = json.dumps({"what": what, "unix_seconds": round(time.time(), 3), **facts})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"\n{line}\n")  # the line before may have been cut short by a kill
        except OSError as error:  # a full disk; the training does not depend on this file
            log.warning("%s: %s could not be written down (%s)", self.path, what, error)

    def entries(self) -> list[dict[str, Any]]:
        """Read all entries; a line that was cut short does not count.

        A damaged journal is set aside with a warning, and goes on with what can be read of it: it
        is no part of the state of a run.
        """
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            self.set_aside(str(error.strerror), [])
            return []
        whole = [line for line in lines if line.endswith(b"}")]
        found = [entry for line in whole if (entry := entry_of(line)) is not None]
        if len(found) < len(whole):
            self.set_aside(f"{len(whole) - len(found)} of {len(whole)} lines are no entries", found)
        return found

    def set_aside(self, reason: str, entries: list[dict[str, Any]]) -> None:
        """Rename a damaged journal, and begin a new one with the entries that are left."""
        aside = self.path.with_name(f"{FILE}.{time.time_ns()}.damaged")
        log.warning("%s: is damaged (%s); set aside as %s", self.path, reason, aside.name)
        try:
            self.path.rename(aside)
            lines = [f"{json.dumps(entry)}\n" for entry in entries]
            self.path.write_text("".join(lines), encoding="utf-8")
        except OSError as error:
            log.warning("%s: could not be set aside (%s)", self.path, error)

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


def entry_of(line: bytes) -> dict[str, Any] | None:
    """Parse a line; None where it is no entry."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
        return None
    if any(misfits(entry, {"what": TEXT})):
        return None
    return None if any(misfits(entry, ENTRIES.get(entry["what"], {}))) else entry
