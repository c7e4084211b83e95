"""Atomic writes, content hashes and locks of files."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
HASH_BLOCK_BYTES = 1 << 20
AT_FDCWD, RENAME_EXCHANGE, RENAME_SWAP = -100, 2, 2
"""Numbers of <fcntl.h> and <linux/fs.h>, and of <sys/stdio.h> of macOS."""
CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
OF_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, None)
"""Errors of a write to an open file; NumPy gives none."""


def cache_folder() -> Path:
    """Make and return the folder for files that can be made again.

    Raises:
        OSError: when it cannot be made.
    """
    folder = cache_place()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cache_place() -> Path:
    """Return where that folder is: `$XDG_CACHE_HOME/tidewheel`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "tidewheel"


def home() -> Path:
    """Return the folder of the user.

    Raises:
        FileNotFoundError: when the system knows none.
    """
    try:
        return Path.home()
    except RuntimeError as error:
        raise FileNotFoundError(errno.ENOENT, "the user has no folder; set HOME", "~") from error


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
        with naming(path), os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
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

    After an error, the earlier content of `path` is unchanged. Where `path` is a link to a folder,
    it stays one, and that folder is replaced.
    """
    place = place_of(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    try:
        partial.chmod(0o755)
        with naming(place):
            yield partial
            put_in_place(partial, place)
    finally:
        remove(partial)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a path to write a file at, which replaces `path` when the block ends without an error.

    Its name is that of `path`, because some libraries choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        with naming(path):
            yield folder / path.name
            sync_file(folder / path.name)
            (folder / path.name).replace(path)
    finally:
        remove(folder)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to the error of a write, such as that of a full disk, which names none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in OF_WRITES:
            error.filename = str(path)
        raise


def place_of(path: Path) -> Path:
    """Return where a folder lies: the end of the links, where `path` is one."""
    return path.resolve() if path.is_symlink() else path


def put_in_place(partial: Path, path: Path) -> None:
    """Replace a folder by a finished one, durably; `partial` then is the earlier one.

    After an error, and after a kill at any instant, the earlier folder or the finished one is at
    its place; see `clear_leftovers` for file systems that cannot exchange two names.
    """
    for item in [*partial.rglob("*"), partial]:
        if item.exists():  # not a link to a missing file
            sync_file(item)
    if not path.exists():
        partial.rename(path)
    elif not exchanged(partial, path):
        old = old_name(path)
        path.rename(old)
        try:
            partial.rename(path)
        except OSError:
            old.rename(path)
            raise
        old.rename(partial)
    sync_folder(path.parent)


def exchanged(first: Path, second: Path) -> bool:
    """Exchange two names in one step; return False where the system or the disk cannot.

    Source: renameat2(2) of Linux, renamex_np(2) of macOS.

    Raises:
        OSError: when it can, and fails.
    """
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if hasattr(library, "renameat2"):
        status = library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)
    elif hasattr(library, "renamex_np"):
        status = library.renamex_np(*names, RENAME_SWAP)
    else:
        return False
    number = ctypes.get_errno()
    if status and number not in CANNOT_EXCHANGE:
        raise OSError(number, os.strerror(number), str(second))
    return not status


def old_name(path: Path) -> Path:
    """Return where a folder lies while another one is put in its place by two renames."""
    return path.with_name(f".{path.name}.old")


def clear_leftovers(path: Path) -> None:
    """Delete what killed processes have left beside an output.

    Where one was killed between two renames, the earlier output gets its name back. Only the
    process that holds the lock on the output may call this.
    """
    place = place_of(path)
    if not place.parent.is_dir():
        return
    if old_name(place).exists() and not place.exists():
        old_name(place).rename(place)
    for item in place.parent.iterdir():
        if item.name.startswith(f".{place.name}."):
            remove(item)


def remove(path: Path) -> None:
    """Delete a file or folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


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
    """Return the SHA-256 of a file, from a cache where the file is the same by all that is cheap.

    That is size, inode, and the times of the last change of content and of inode; the last one
    changes too when a program sets the other back. What rots on the disk changes none of them.
    """
    stat = path.stat()
    names = ("st_size", "st_ino", "st_mtime_ns", "st_ctime_ns")
    facts = {"path": str(path.resolve()), **{name: getattr(stat, name) for name in names}}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = read_json(known_hash(path))
        if {name: record[name] for name in facts} == facts:
            RECALLED[facts["path"]] = stat.st_size
            return record["sha256"]
    digest = sha256_file(path)
    try:
        write_json(known_hash(path), {**facts, "sha256": digest})
    except (OSError, ValueError) as error:
        log.warning("%s: is hashed again each time it is read (%s)", path, error)
    return digest


RECALLED: dict[str, int] = {}
"""The files of which this process has recalled the hash, and their size in bytes."""


def known_hash(path: Path) -> Path:
    """Return where the hash of a file is kept."""
    return hash_folder() / f"{sha256_bytes(os.fsencode(path.resolve()))}.json"


def hash_folder() -> Path:
    """Return the folder of hashes that were computed earlier; it may not exist."""
    return cache_place() / "sha256"


def forget_hashes() -> None:
    """Delete the hashes that were computed earlier, so that each file is read again."""
    shutil.rmtree(hash_folder(), ignore_errors=True)


def recall_notice() -> str | None:
    """Describe how much this process has taken from the cache of hashes; None where nothing."""
    if not RECALLED:
        return None
    files = f"{len(RECALLED)} files" if len(RECALLED) > 1 else "1 file"
    return (
        f"{files} ({sum(RECALLED.values()):,} bytes) not read again: size, inode and times are as "
        "they were when hashed; `python -m stages.params --rehash` reads them"
    )


def sha256_path(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and files in a folder except `__pycache__`."""
    if not path.is_dir():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


HANDOVER_SECONDS = 120.0
"""How long a process may take to end, where it has been asked to."""


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
        self.write_owner(str(os.getpid()))
        return True

    def acquire_after(self, is_being_left: Callable[[], bool]) -> str | None:
        """Take the lock, and wait for a process that is about to leave it.

        Args:
            is_being_left: whether the process that has it will.

        Returns:
            None; where another process keeps the lock, that process, and the file is closed.
        """
        deadline = time.monotonic() + HANDOVER_SECONDS
        while not self.acquire():
            if time.monotonic() > deadline or not is_being_left():
                owner = self.owner()
                self.release()
                return owner
            time.sleep(0.1)
        return None

    def write_owner(self, text: str) -> None:
        """Write what another process reads as the owner."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(text)
        self._file.flush()

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
