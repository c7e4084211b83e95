"""Atomic writes, content hashes and locks of files."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
HASH_BLOCK_BYTES = 1 << 20


def cache_folder() -> Path:
    """Make and return the folder for files that can be made again: `$XDG_CACHE_HOME/tidewheel`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "tidewheel"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_folder(folder: Path) -> None:
    """Make a folder that is still there after a loss of power.

    Folders above it may be new and not durable yet, so all of them are synced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = folder.stat().st_dev
    for ancestor in folder.resolve().parents:
        if ancestor.stat().st_dev != device:
            return  # a mount point is not new
        with contextlib.suppress(PermissionError):  # a folder that cannot be read is not new
            sync_folder(ancestor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. A rename is durable only after this."""
    sync_file(folder)


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable. It must be readable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step and durably: readers see the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def json_text(value: Any) -> str:  # noqa: ANN401
    """Format a value as indented JSON.

    Raises:
        ValueError: when it contains NaN or infinity.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401
    """Replace a file by the JSON of a value, as `write_text` does."""
    write_text(path, json_text(value))


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Read a JSON file that this project wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, which replaces `path` when the block ends without an error.

    After an error, the earlier content of `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    partial.chmod(0o755)
    try:
        yield partial
        replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(partial: Path, path: Path) -> None:
    """Replace a folder by a finished one, durably. After an error the earlier folder is back."""
    old = partial.with_name(f"{partial.name}.old")
    for item in [*partial.rglob("*"), partial]:
        if item.exists():  # not a link to a missing file
            sync_file(item)
    if path.exists():
        path.rename(old)
    try:
        partial.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes, as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits, in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def cached_sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, from a cache where size and modification time are the same."""
    stat = path.stat()
    key = sha256_bytes(str(path.resolve()).encode())
    known = cache_folder() / "sha256" / f"{key}.json"
    facts = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = read_json(known)
        if {name: record[name] for name in facts} == facts:
            return record["sha256"]
    digest = sha256_file(path)
    write_json(known, {"path": str(path.resolve()), **facts, "sha256": digest})
    return digest


def sha256_path(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and files in a folder except `__pycache__`."""
    if not path.is_dir():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


class FileLock:
    """An advisory lock on a file. It ends with its process, whose id is in the file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a+")

    def acquire(self) -> bool:
        """Take the lock; return False when another process has it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not self.is_current():  # another process has deleted it
            self._file.close()
            self._file = self.path.open("a+")
            return self.acquire()
        self._file.seek(0)
        self._file.truncate()
        self._file.write(str(os.getpid()))
        self._file.flush()
        return True

    def is_current(self) -> bool:
        """Whether the file at this path is still the open one."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    @property
    def descriptor(self) -> int:
        """The descriptor of the open file. A process that inherits it holds the lock too."""
        return self._file.fileno()

    def owner(self) -> str:
        """Return the id of the process that took the lock last, or `unknown`."""
        self._file.seek(0)
        return self._file.read().strip() or "unknown"

    def release(self) -> None:
        """Release the lock."""
        self._file.close()
