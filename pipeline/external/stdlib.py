"""The source of the Python standard library on this machine: which files, and their fingerprint."""

import hashlib
import os
import platform
import sysconfig
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

LEFT_OUT = ("test", "tests", "idlelib", "turtledemo", "site-packages", "dist-packages")
"""Folders of tests and demonstrations, and of what was installed next to the library."""
BUILD_SETTINGS = ("config-", "_sysconfigdata_")
"""Beginnings of names: such files describe how this Python was built, and are left out."""


def stdlib_root() -> Path:
    """Find the folder of the standard library."""
    return Path(sysconfig.get_path("stdlib"))


def stdlib_files(root: Path) -> list[Path]:
    """List the library's modules by name, those in `LEFT_OUT` folders apart.

    Raises:
        DataError: when this Python has no source on disk.
    """
    files = list[Path]()
    for folder, folders, names in os.walk(root):
        folders[:] = [
            name for name in folders if not name.startswith(BUILD_SETTINGS) and name not in LEFT_OUT
        ]
        files += [
            Path(folder, name)
            for name in names
            if name.endswith(".py") and not name.startswith(BUILD_SETTINGS)
        ]
    if not files:
        raise DataError(
            f"data.source=stdlib: this Python has no source files in {root}.\n"
            "Use a Python whose standard library is not packed."
        )
    return sorted(files)


def stdlib_fingerprint(root: Path) -> dict[str, Any]:
    """Return the version of Python, and one size and one hash for all files."""
    digest, size = hashlib.sha256(), 0
    for file in stdlib_files(root):
        content = file.read_bytes()
        size += len(content)
        name = file.relative_to(root).as_posix()
        digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    files = {"size": size, "sha256": digest.hexdigest()}
    return {"python": platform.python_version(), "standard library": files}
