"""Errors of the operating system in words: which path, what is needed, what to do."""

import errno
import os
import re
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from pipeline.errors import PipelineError, StorageError

TEMPORARY = re.compile(r"/\.([^/\s]+)\.[a-z0-9_]{8}(?=[/\s:,;')]|$)")
"""What `tempfile` makes of the name of an output; after an error it is gone."""
UNWRITTEN = re.compile(
    r"\[(write|save_safetensors|save)\] |No space left on device|File too large|"
    r"\d+ requested and \d+ written"
)
"""What MLX, safetensors and NumPy say of a file that they could not write."""
LIMITS = {errno.EMFILE: resource.RLIMIT_NOFILE, errno.EFBIG: resource.RLIMIT_FSIZE}
NEEDED_FILES, WANTED_FILES = 32, 1024
"""Open files of a stage on a small model, and on one of many shards."""
ELSEWHERE = "by hand, hydra.run.dir=FOLDER writes elsewhere"
REMEDIES = {
    errno.ENOSPC: "the disk is full ({free} bytes are free). Make room on it, and start again.",
    errno.EDQUOT: "your share of the disk is used up. Make room there, and start again.",
    errno.EFBIG: "no file may be larger than {limit} bytes here. Start it from a shell with "
    "`ulimit -f unlimited`, or on a disk that takes larger files.",
    errno.EMFILE: "no more than {limit} files may be open at a time. Start it from a shell with "
    "a higher `ulimit -n`.",
    errno.ENFILE: "the system has too many open files. End other programs, and start again.",
    errno.EACCES: "user {user} has no right to it. Give that right (chmod, chown); {elsewhere}.",
    errno.EPERM: "user {user} has no right to it. Give that right (chmod, chown); {elsewhere}.",
    errno.EROFS: "the disk is read-only. Mount it for writing; {elsewhere}.",
    errno.EIO: "the disk fails. Look at the log of the system, and use another disk; {elsewhere}.",
    errno.ENOENT: "it is not there. Bring it back, or make the folder that is to hold it.",
    errno.ENOTDIR: "a part of this path is a file, and a folder is needed. Move that file away.",
    errno.EISDIR: "is a folder, and a file is needed. Move that folder away.",
    errno.EEXIST: "is a file, and a folder is needed. Move that file away.",
    errno.ELOOP: "its links lead in a circle. Delete one of them.",
    errno.ENAMETOOLONG: "the name is too long for the disk. Choose a shorter one.",
}
REMOVED = (
    "DVC had removed the earlier outputs of this stage before it began; `dvc checkout` brings "
    "them back."
)


def use_temporary_folder() -> None:
    """Set TMPDIR to the folder that Python finds, for libraries that only look there.

    MLX fails where TMPDIR names no folder.

    Raises:
        FileNotFoundError: when no folder for temporary files can be written.
    """
    named, usable = os.environ.get("TMPDIR"), tempfile.gettempdir()
    if named and not Path(named).is_dir():
        print(f"TMPDIR={named} is no folder: {usable} is used instead", file=sys.stderr)
        os.environ["TMPDIR"] = usable


def fault_behind(error: Exception) -> Exception | None:
    """Return the error of the operating system that an error is or comes from; None for others."""
    if isinstance(error, BrokenPipeError):  # as of `| head`
        return None
    if isinstance(error, OSError) or UNWRITTEN.search(str(error)):
        return error
    cause = error.__cause__
    return cause if isinstance(cause, OSError) else None


def storage_error(error: Exception, place: str = "") -> StorageError:
    """Put an error of the operating system into words.

    Args:
        error: of Python, or of a library that could not write a file.
        place: what was written to, where the error names no path.
    """
    number, path = getattr(error, "errno", None), final_path(error) or place
    if "No usable temporary directory" in str(error):
        text = f"{error.args[-1]}.\nMake one of these folders writable, or name one in TMPDIR."
    elif number in REMEDIES:
        facts = {"free": free_bytes(path), "limit": limit_of(number), "user": os.geteuid()}
        remedy = REMEDIES[number].format(**facts, elsewhere=ELSEWHERE)
        text = f"{path or 'a file'}: {os.strerror(number)}: {remedy}"
    else:
        text = (
            f"{path or 'a file'}: {str(error).replace(str(getattr(error, 'filename', 0)), path)}.\n"
            f"See that there is room ({free_bytes(path)} bytes are free), that user "
            f"{os.geteuid()} may write there, and what `ulimit -f` and `ulimit -n` allow."
        )
    is_removed = os.environ.get("DVC_STAGE", "params") != "params"
    return StorageError(f"{text}\n{REMOVED}" if is_removed else text)


def final_path(error: Exception) -> str:
    """Return the path that an error names, a temporary folder by the name that it was to get."""
    return TEMPORARY.sub(r"/\1", str(getattr(error, "filename", None) or ""))


def allow_open_files() -> None:
    """Raise the limit of open files as far as a stage may need it.

    Raises:
        StorageError: when the user may not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    if most < NEEDED_FILES:
        raise StorageError(
            f"This process may open only {hard} files (`ulimit -n`), and a stage needs "
            f"{NEEDED_FILES}.\nStart it from a shell with `ulimit -n {WANTED_FILES}`."
        )
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def limit_of(number: int | None) -> str:
    """Return the limit of this process that an error is about."""
    return str(resource.getrlimit(LIMITS[number])[0]) if number in LIMITS else ""


def free_bytes(path: str) -> str:
    """Return how much room is left where a path is, or would be."""
    place = next(each for each in (Path(path or "."), *Path(path).parents, Path()) if each.exists())
    return f"{shutil.disk_usage(place).free:,}"


def report(error: PipelineError) -> int:
    """Print an error without a traceback, and return the exit code.

    A temporary folder gets the name of the output that it was to become.
    """
    text = TEMPORARY.sub(r"/\1", str(error))
    print(f"{type(error).__name__}: {text}", file=sys.stderr)
    return error.exit_code
