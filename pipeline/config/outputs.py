"""The outputs of a stage: locked while it runs, sealed when they are whole, checked when read.

A folder that a stage has written holds `SHA256SUMS`, the hash of each of its files, in the format
of the program `sha256sum`. By it the next stage notices what has changed since.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import PipelineError, StorageError, report_problems
from pipeline.files import (
    FileLock,
    cached_sha256_file,
    clear_leftovers,
    sha256_file,
    write_text,
)

SUMS = "SHA256SUMS"
LARGE_BYTES = 1 << 24
"""From here on the hash of a file is recalled where size and modification time are the same."""
ENDING = "ending"


def sums_of(folder: Path) -> dict[str, str]:
    """Hash the files of a folder, by name relative to it; names that begin with a dot are left out.

    macOS puts files with such names everywhere.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {
        name: hash_of(path)
        for name, path in files.items()
        if name != SUMS and path.is_file() and not any(p.startswith(".") for p in name.split("/"))
    }


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    is_large = path.stat().st_size >= LARGE_BYTES
    return cached_sha256_file(path) if is_large else sha256_file(path)


def seal(folder: Path) -> None:
    """Write the hashes of a finished folder into it."""
    lines = [f"{digest}  {name}\n" for name, digest in sums_of(folder).items()]
    write_text(folder / SUMS, "".join(lines))


def read_sums(folder: Path) -> dict[str, str]:
    """Read the hashes that `seal` has written; a line that is damaged counts as a missing file."""
    text = (folder / SUMS).read_text(encoding="utf-8", errors="replace")
    pairs = [line.partition("  ") for line in text.splitlines()]
    return {name: digest for digest, _, name in pairs}


def check_sealed(folder: Path, remedy: str) -> None:
    """Refuse a folder that is not what its stage has written.

    Raises:
        PipelineError: with each file that is gone, new, or another one.
    """
    if not (folder / SUMS).is_file():
        raise PipelineError(
            f"{folder} has no {SUMS}: it is not what a stage writes, or it was made by an earlier "
            f"version.\n{remedy}"
        )
    then, now = read_sums(folder), sums_of(folder)
    words = {name: "is gone" for name in then if name not in now}
    words |= {name: "is new" for name in now if name not in then}
    words |= {name: "has changed" for name in now if name in then and then[name] != now[name]}
    problems = [f"{name}: {words[name]}" for name in sorted(words)]
    headline = f"{folder} is not what its stage has written ({SUMS} has the hashes):"
    report_problems(PipelineError, headline, problems, remedy)


class OutputLock:
    """The lock of a stage on its outputs in one place; a second process of the stage is refused.

    Attributes:
        lock: its file is deleted at the end.
    """

    def __init__(self, stage_name: str, out: Path) -> None:
        self.stage_name, self.out = stage_name, out
        self.lock = FileLock(out / f".{stage_name}.lock")

    @contextlib.contextmanager
    def held(self, outputs: list[str]) -> Iterator[None]:
        """Hold the lock; first delete what killed processes have left beside the outputs.

        Raises:
            StorageError: when another process holds it, and is not ending.
        """
        owner = self.lock.acquire_after(lambda: is_ending(self.lock.owner()))
        if owner is not None:
            raise StorageError(
                f"{self.out}: the stage {self.stage_name} is already writing there, in process "
                f"{owner}.\nWait for it, or end it (`kill {owner}`) and start again."
            )
        try:
            for name in outputs:
                clear_leftovers(self.out / name)
            yield
        finally:
            with contextlib.suppress(OSError):
                self.lock.path.unlink()
            self.lock.release()

    def note_ending(self) -> None:
        """Write into the lock that this process is about to end, so that the next one waits."""
        self.lock.write_owner(f"{os.getpid()} {ENDING}")


def is_ending(owner: str) -> bool:
    """Whether the owner of a lock has ended, or has noted that it will."""
    if owner.endswith(ENDING):
        return True
    if not owner.isdecimal():  # it has not written its id yet
        return True
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is another user's
    return False
