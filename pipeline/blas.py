"""Give MLX a fast BLAS: the Linux wheel for the CPU carries the reference one, 30 times slower.

MLX calls `cblas_sgemm` by name, and the name that the process sees first is the one it gets. So a
library with that name is opened for all to see before MLX is imported. This module never imports
MLX; `pipeline.device` does, and checks that it worked.
"""

import contextlib
import ctypes
import importlib.metadata
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DeviceError
from pipeline.files import cache_folder, sha256_bytes
from pipeline.machine import PROC, allowed_cores

log = logging.getLogger(__name__)

SETTING = "TIDEWHEEL_BLAS"
REMEDY = (
    "Install a BLAS (Debian: libopenblas0) or a C compiler (Debian: gcc), "
    f"or name a library in {SETTING}."
)
SYSTEM_LIBRARIES = (
    "libopenblas.so.0",
    "libopenblasp.so.0",
    "libopenblas.so",
    "libmkl_rt.so.2",
    "libmkl_rt.so",
    "libblis.so.4",
    "libblis.so",
)
FAST_NAMES = ("openblas", "mkl_rt", "blis")
SPELLINGS = (("", "", 32), ("scipy_", "64_", 64), ("", "64_", 64), ("scipy_", "", 32))
"""Prefix and suffix of names, and bits of a size, in the builds of OpenBLAS that are about."""
THREAD_SETTERS = ("openblas_set_num_threads", "MKL_Set_Num_Threads", "bli_thread_set_num_threads")
SHIM_SOURCE = Path(__file__).with_name("blas_shim.c")
ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE = 101, 111, 112


class NotUsable(Exception):
    """A library cannot be routed to; the next one is tried."""


@dataclass(frozen=True)
class Blas:
    """The BLAS that MLX's float32 and float64 products go to on the CPU.

    Attributes:
        name: what it calls itself, with version and kernels where it tells.
        path: the library; empty where MLX's own is used.
        num_threads: how many threads share a product.
        shim: counts the calls it hands on; None where none stands between.
    """

    name: str
    path: str = ""
    num_threads: int = 1
    shim: ctypes.CDLL | None = None

    def num_calls(self) -> int:
        """Count the products the shim has handed on so far."""
        return ctypes.c_int64.in_dll(self.shim, "tidewheel_blas_calls").value if self.shim else 0


OWN = Blas("Accelerate" if sys.platform == "darwin" else "MLX's own")


def route_blas() -> Blas:
    """Route MLX's matrix products to the best BLAS there is, before MLX is imported.

    Raises:
        DeviceError: when `TIDEWHEEL_BLAS` asks for what cannot be had.
    """
    setting = os.environ.get(SETTING, "")
    num_threads = pin_threads()
    if setting == "none" or not (setting or is_worthwhile()):
        return OWN
    problems = []
    for library in candidates(setting):
        try:
            return use_library(library, num_threads)
        except NotUsable as problem:
            problems.append(str(problem))
    reason = "; ".join(problems) or "no OpenBLAS, MKL or BLIS was found"
    if setting:
        raise DeviceError(f"{SETTING}={setting} cannot be used: {reason}.\n{REMEDY}")
    log.warning(
        "matrix products will be about 30 times slower than they could: %s. %s", reason, REMEDY
    )
    return OWN


def is_worthwhile() -> bool:
    """Tell whether MLX will compute on a CPU of Linux; elsewhere it brings what it needs."""
    if sys.platform != "linux":
        return False
    names = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    return not (any(name.startswith("mlx-cuda") for name in names if name) and has_cuda_driver())


def has_cuda_driver() -> bool:
    """Tell whether the library of the CUDA driver is on this machine."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def pin_threads() -> int:
    """Fix how many threads share a product, because its last bits depend on it.

    `OPENBLAS_NUM_THREADS` or `OMP_NUM_THREADS` decides; else it is the cores we may use.
    """
    num_threads = allowed_cores()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()
        if value and not (value.isdecimal() and int(value) > 0):
            raise DeviceError(
                f"{name}={value} is no number of threads.\nSet a positive number, or unset it."
            )
        num_threads = int(value) if value else num_threads
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    os.environ.setdefault("MKL_DYNAMIC", "FALSE")
    os.environ.setdefault("MKL_CBWR", "AUTO")  # the same bits wherever the arrays lie in memory
    return num_threads


def candidates(setting: str) -> Iterator[str | None]:
    """List libraries to try, best first; None is what the process already has."""
    if setting not in ("", "system", "numpy"):
        yield setting
        return
    if not setting and hasattr(ctypes.CDLL(None), "cblas_sgemm"):
        yield None
    if setting != "numpy":
        yield from system_libraries()
    if setting != "system":
        yield from numpy_libraries()


def system_libraries() -> Iterator[str]:
    """List BLAS libraries of this environment and of the system, present or not."""
    for name in SYSTEM_LIBRARIES:
        beside_python = Path(sys.prefix) / "lib" / name
        if beside_python.exists():
            yield str(beside_python)
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            yield name


def numpy_libraries(proc: Path = PROC) -> list[str]:
    """List the BLAS libraries that NumPy has loaded, wherever its package keeps them."""
    mapped = (proc / "self" / "maps").read_text().splitlines()
    paths = dict.fromkeys(line.split(maxsplit=5)[5] for line in mapped if line.count("/"))
    return [path for path in paths if any(name in Path(path).name for name in FAST_NAMES)]


def use_library(path: str | None, num_threads: int) -> Blas:
    """Check a library and put its products in the place of MLX's own.

    Raises:
        NotUsable: when it lacks what is needed, multiplies wrongly, or comes too late.
    """
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise NotUsable(str(error)) from None
    prefix, suffix, bits = find_spelling(library, path)
    gemms = [library[f"{prefix}cblas_{kind}gemm{suffix}"] for kind in "sd"]
    for gemm, dtype in zip(gemms, (np.float32, np.float64), strict=True):
        check_product(gemm, dtype, bits, path)
    shim = None
    if prefix or suffix:
        shim = load_shim()
        shim.tidewheel_blas_route(
            *(ctypes.cast(gemm, ctypes.c_void_p) for gemm in gemms), bits == 64
        )
    elif path:
        ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
    check_visible(shim or library, path)
    name = describe_library(library, prefix, suffix) or Path(path or "preloaded").name
    return Blas(name, path or "", set_threads(library, prefix, suffix, num_threads), shim)


def find_spelling(library: ctypes.CDLL, path: str | None) -> tuple[str, str, int]:
    """Find how a library spells the names of its products, and how wide its sizes are."""
    for prefix, suffix, bits in SPELLINGS:
        if all(hasattr(library, f"{prefix}cblas_{kind}gemm{suffix}") for kind in "sd"):
            return prefix, suffix, bits
    raise NotUsable(f"{path} has no cblas_sgemm and cblas_dgemm")


def check_product(gemm: Any, dtype: type, bits: int, path: str | None) -> None:  # noqa: ANN401
    """Multiply two small matrices and compare with sums that need no BLAS.

    A library that takes 64-bit sizes under the plain names would read what happens to stand above
    MLX's 32 bits. Here something stands there, so that it refuses and is found out.
    """
    size = 8
    a, b = np.arange(2 * size * size, dtype=dtype).reshape(2, size, size) / 100
    c = np.zeros_like(a)
    number = ctypes.c_float if dtype is np.float32 else ctypes.c_double
    wide = ctypes.c_int64(size if bits == 64 else size | 0x5EED << 32)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (a, b, c)]
    gemm(
        *(ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE, wide, wide, wide, number(1)),
        *(pointers[0], wide, pointers[1], wide, number(0), pointers[2], wide),
    )
    if not np.allclose(c, np.einsum("mk,nk->mn", a, b)):
        raise NotUsable(f"{path} multiplies wrongly (or takes 64-bit sizes)")


def check_visible(library: ctypes.CDLL, path: str | None) -> None:
    """Make sure that whoever asks for `cblas_sgemm` from now on gets it from this library."""
    if "mlx.core" in sys.modules:
        raise NotUsable("mlx was imported before pipeline.device")
    seen, ours = (
        ctypes.cast(where.cblas_sgemm, ctypes.c_void_p).value
        for where in (ctypes.CDLL(None), library)
    )
    if seen != ours:
        raise NotUsable(f"{path} is hidden by a cblas_sgemm that was loaded before")


def describe_library(library: ctypes.CDLL, prefix: str, suffix: str) -> str:
    """Ask a library for its name, version and kernels; empty where it cannot tell."""
    for name in (f"{prefix}openblas_get_config{suffix}", "bli_info_get_version_str"):
        if hasattr(library, name):
            tell = library[name]
            tell.restype = ctypes.c_char_p
            return tell().decode()
    if hasattr(library, "MKL_Get_Version_String"):
        text = ctypes.create_string_buffer(200)
        library.MKL_Get_Version_String(text, len(text))
        return text.value.decode().strip()
    return ""


def set_threads(library: ctypes.CDLL, prefix: str, suffix: str, num_threads: int) -> int:
    """Set the threads of a library that was perhaps loaded before they were pinned."""
    for name in THREAD_SETTERS:
        spelled = f"{prefix}{name}{suffix}"
        if hasattr(library, spelled):
            library[spelled](num_threads)
    asked = f"{prefix}openblas_get_num_threads{suffix}"
    return library[asked]() if hasattr(library, asked) else num_threads


def load_shim() -> ctypes.CDLL:
    """Load the shim, for all to see; build it where no process has done so before."""
    source = SHIM_SOURCE.read_bytes()
    key = sha256_bytes(source + "".join([platform.machine(), *platform.libc_ver()]).encode())[:16]
    try:
        folder = cache_folder() / "blas" / key
        folder.mkdir(parents=True, exist_ok=True)
        return load_from(folder)
    except OSError as error:
        log.warning("the BLAS shim is built anew by each process: %s", error)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return load_from(Path(folder))
        except OSError as error:
            raise NotUsable(f"the shim cannot be loaded ({error})") from None


def load_from(folder: Path) -> ctypes.CDLL:
    """Load the shim from a folder, after building it where it is missing or damaged."""
    library = folder / "blas_shim.so"
    if library.exists():
        with contextlib.suppress(OSError):
            return ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    build_shim(library)
    return ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def build_shim(library: Path) -> None:
    """Compile the shim; of several processes that do so at once, one wins and all are right.

    Raises:
        NotUsable: when there is no C compiler, or it fails.
    """
    compiler = shlex.split(os.environ.get("CC", ""))
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if not compiler and not found:
        raise NotUsable("there is no C compiler (cc, gcc or clang) to reach NumPy's OpenBLAS")
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        command = [*(compiler or [str(found)]), "-O2", "-shared", "-fPIC", "-o", built, SHIM_SOURCE]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise NotUsable(f"the C compiler failed: {error.stderr.strip()}") from None
        built.replace(library)
