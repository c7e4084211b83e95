"""Results that a stage keeps while it works, so that a killed one goes on where it was."""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError
from pipeline.files import sync_folder

IDENTITY = "identity"


class KeptResults:
    """Results by name, each on the disk when `add` returns.

    The file has one JSON array a line, name and result. Numbers are read back to the same bits.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        """Read what is there; what was kept under another identity is dropped.

        Args:
            path: of the file, in a folder that exists.
            identity: all that decides the results and is not in the name of the folder.

        Raises:
            CheckpointError: when the file cannot be read or written.
        """
        self.path = path
        self.found: dict[str, Any] = {}
        try:
            kept = path.read_bytes() if path.exists() else b""
            self.read(kept)
            if self.found.get(IDENTITY) != identity:
                self.found.clear()
            self.restart()
        except OSError as error:
            raise self.failure(error) from error
        self.add(IDENTITY, identity)

    def read(self, kept: bytes) -> None:
        """Read whole lines, up to the first that a kill or a loss of power has damaged."""
        for line in kept[: kept.rfind(b"\n") + 1].splitlines():
            try:
                name, value = json.loads(line)
                self.found[name] = value
            except (ValueError, TypeError):
                return

    def restart(self) -> None:
        """Write a new file with the results that hold."""
        partial = self.path.with_name(f".{self.path.name}")
        partial.write_text("".join(map(line_of, self.found.items())), encoding="utf-8")
        partial.replace(self.path)
        sync_folder(self.path.parent)

    def add(self, name: str, value: Any) -> None:  # noqa: ANN401
        """Keep a result that JSON can hold.

        Raises:
            CheckpointError: when it cannot be written.
        """
        self.found[name] = value
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line_of((name, value)))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self.failure(error) from error

    def failure(self, error: OSError) -> CheckpointError:
        """Word the failure to read or write the file."""
        return CheckpointError(
            f"{self.path}: results cannot be kept ({error}).\n"
            f"See that {self.path.parent} can be written and has room, and start again: what was "
            "measured before is not measured again."
        )


def line_of(entry: tuple[str, Any]) -> str:
    """Write a name and its result as the file has them."""
    return json.dumps(entry) + "\n"
