"""Choose a fast BLAS for MLX. The one in its Linux wheel for the CPU is 30 times slower.

MLX calls `cblas_sgemm`. Where several libraries export this name to the process, the one that was
loaded first is used. So a fast one is loaded before MLX is imported. Nothing here imports MLX.
`pipeline.device` does that, after `route_blas` and before `confirm_blas`.
"""

import contextlib
import ctypes
import importlib.metadata
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.blas.library import Blas, NotUsable, sgemm_address, use_library
from pipeline.errors import DeviceError
from pipeline.machine import PROC, allowed_cores

log = logging.getLogger(__name__)

SETTING = "TIDEWHEEL_BLAS"
REMEDY = (
    "Install a BLAS (Debian: libopenblas0) or a C compiler (Debian: gcc), "
    f"or name a library in {SETTING}; {SETTING}=none chooses MLX's own."
)
SYSTEM_LIBRARIES = (
    "libopenblas.so.0",
    "libopenblasp.so.0",
    "libopenblas.so",
    "libmkl_rt.so.3",
    "libmkl_rt.so.2",
    "libmkl_rt.so",
    "libblis.so.4",
    "libblis.so",
)
LIBRARY_NAMES = ("openblas", "mkl_rt", "blis")


def route_blas() -> Blas:
    """Make MLX use the fastest BLAS that is found. MLX must not be imported yet.

    Raises:
        DeviceError: when the BLAS that `TIDEWHEEL_BLAS` names cannot be used.
    """
    setting = os.environ.get(SETTING, "")
    num_threads = pin_threads()
    if sys.platform != "linux" and setting not in ("", "none"):
        raise DeviceError(f"{SETTING}={setting}: only on Linux can a BLAS be chosen.\nUnset it.")
    if sys.platform != "linux" or setting == "none":
        return Blas("Accelerate" if sys.platform == "darwin" else "MLX's own")
    if not setting and expects_gpu():
        return Blas("MLX's own", problem="MLX found no GPU though it is built for CUDA")
    problems = []
    for path, must_be_fast in candidates(setting):
        try:
            return use_library(path, num_threads, must_be_fast)
        except NotUsable as problem:
            problems.append(str(problem))
    problem = "; ".join(dict.fromkeys(problems)) or "no OpenBLAS, MKL or BLIS was found"
    if setting:
        raise DeviceError(f"{SETTING}={setting} cannot be used: {problem}.\n{REMEDY}")
    return Blas("MLX's own", problem=problem)


def confirm_blas(blas: Blas) -> Blas:
    """Check that MLX uses the BLAS that `route_blas` chose, after a product on the CPU.

    A warning is logged where MLX uses its own and need not.

    Returns:
        The BLAS in use.
    """
    if blas.path and not is_bound():
        blas = Blas("MLX's own", problem=f"MLX does not call {blas.path}")
    if blas.problem:
        log.warning("Matrix products will be slow: %s.\n%s", blas.problem, REMEDY)
    return blas


def is_bound(proc: Path = PROC) -> bool:
    """Whether the function table of MLX's library has the address of the visible `cblas_sgemm`."""
    visible = sgemm_address(ctypes.CDLL(None))
    if not visible:
        return False
    wanted = visible.to_bytes(ctypes.sizeof(ctypes.c_void_p), sys.byteorder)
    for line in (proc / "self" / "maps").read_text().splitlines():
        span, rights = line.split()[:2]
        if "mlx" in Path(line.split(maxsplit=5)[-1]).name and rights in ("r--p", "rw-p"):
            start, end = (int(number, 16) for number in span.split("-"))
            if wanted in ctypes.string_at(start, end - start):
                return True
    return False


def expects_gpu() -> bool:
    """Whether MLX is built for CUDA, and the driver's library is on this machine."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    names = [distribution.name for distribution in importlib.metadata.distributions()]
    return any(name.startswith("mlx-cuda") for name in names)


def pin_threads() -> int:
    """Fix the number of threads that share a product, because its last bits depend on it.

    `OPENBLAS_NUM_THREADS` decides, else `OMP_NUM_THREADS`, else the number of allowed cores.

    Returns:
        The number of threads.

    Raises:
        DeviceError: when a variable is not a positive number.
    """
    num_threads = allowed_cores()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()
        if value and not (value.isdecimal() and int(value) > 0):
            raise DeviceError(
                f"{name}={value} is not a number of threads.\nSet a positive number, or unset it."
            )
        num_threads = int(value) if value else num_threads
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    os.environ.setdefault("MKL_DYNAMIC", "FALSE")
    os.environ.setdefault("MKL_CBWR", "AUTO")  # the same bits at any address of the arrays
    return num_threads


def candidates(setting: str) -> Iterator[tuple[str, bool]]:
    """Yield the libraries to try, the best first.

    NumPy's OpenBLAS comes after the fast libraries of the system and before the slow ones.

    Yields:
        A path or name (empty: the one that is loaded already), and whether to skip it when it is
        known to be slow.
    """
    if setting not in ("", "system", "numpy"):
        yield setting, False
        return
    from_numpy = numpy_libraries()  # before this function loads any others
    if not setting and sgemm_address(ctypes.CDLL(None)):
        yield "", False
    if setting != "numpy":
        yield from ((path, True) for path in system_libraries())
    if setting != "system":
        yield from ((path, False) for path in from_numpy)
    if setting != "numpy":
        yield from ((path, False) for path in system_libraries())


def system_libraries() -> Iterator[str]:
    """Yield the BLAS libraries in the folder of Python or on the path of the loader."""
    for name in SYSTEM_LIBRARIES:
        for path in (str(Path(sys.prefix) / "lib" / name), name):
            with contextlib.suppress(OSError):
                ctypes.CDLL(path)
                yield path


def numpy_libraries(proc: Path = PROC) -> list[str]:
    """List the BLAS libraries that NumPy has loaded, those of its own folder first."""
    home = str(Path(np.__file__).parents[1])
    lines = (proc / "self" / "maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/" in line}
    loaded = [path for path in paths if any(name in Path(path).name for name in LIBRARY_NAMES)]
    return sorted(loaded, key=lambda path: (not path.startswith(home), path))
