"""Build `shim.c` once with the system's C compiler, and load it.

The shim exports the products of a BLAS under the names that MLX calls. It does not depend on that
BLAS, so one build serves every version of NumPy.
"""

import contextlib
import ctypes
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from pipeline.files import cache_folder, sha256_bytes

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_suffix(".c")
COMPILERS = ("cc", "gcc", "clang")


class ShimError(Exception):
    """The shim cannot be built or loaded on this machine."""


def load_shim() -> ctypes.CDLL:
    """Load the shim so that all libraries loaded later use it; build it when the cache has none.

    Raises:
        ShimError: when there is no C compiler, or its output cannot be loaded.
    """
    target = SOURCE.read_bytes() + "".join([platform.machine(), *platform.libc_ver()]).encode()
    try:
        folder = cache_folder() / "blas" / sha256_bytes(target)[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return load_from(folder)
    except OSError as error:
        log.warning(
            "each process builds the BLAS shim again, because it cannot be cached: %s", error
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            return load_from(Path(folder))
        except OSError as error:
            raise ShimError(f"the shim to NumPy's BLAS cannot be loaded: {error}") from None


def load_from(folder: Path) -> ctypes.CDLL:
    """Load the shim from a folder; build it first when it is missing or damaged."""
    library = folder / "shim.so"
    with contextlib.suppress(OSError):
        return ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    build(library)
    return ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def build(library: Path) -> None:
    """Compile the shim in a temporary folder, so that no other process loads an incomplete file.

    Raises:
        ShimError: when the compiler does not start or fails.
    """
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        command = [*find_compiler(), "-O2", "-shared", "-fPIC", "-o", str(built), str(SOURCE)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise ShimError(f"the C compiler does not start: {error}") from None
        if done.returncode:
            raise ShimError(f"{shlex.join(command)} failed: {done.stderr.strip()}")
        built.replace(library)


def find_compiler() -> list[str]:
    """Return the command of the C compiler: `CC`, or the first of the usual names.

    Raises:
        ShimError: when there is none.
    """
    named = shlex.split(os.environ.get("CC", ""))
    found = [name for name in COMPILERS if shutil.which(name)]
    if not named and not found:
        raise ShimError(f"NumPy's BLAS needs a shim, and no C compiler ({', '.join(COMPILERS)})")
    return named or found[:1]
