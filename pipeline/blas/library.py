"""One BLAS library: whether it multiplies as MLX expects, and how MLX is made to use it."""

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.blas.shim import ShimError, load_shim

SPELLINGS = (("", "", False), ("scipy_", "64_", True), ("", "64_", True), ("scipy_", "", False))
"""Prefix and suffix of function names, and whether sizes have 64 bits, in the usual builds."""
THREAD_SETTERS = ("openblas_set_num_threads", "MKL_Set_Num_Threads", "bli_thread_set_num_threads")
ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE = 101, 111, 112


class NotUsable(Exception):
    """A library cannot replace the one in MLX's wheel; the text says why."""


@dataclass(frozen=True)
class Blas:
    """The BLAS that multiplies MLX's float32 and float64 matrices on the CPU.

    Attributes:
        name: its own name, with version and kernels where it reports them.
        path: the library; empty where MLX uses its own.
        num_threads: how many threads share a product.
        set_threads: changes the number of threads; None where MLX uses its own library.
        problem: why MLX uses its own, where it should not.
    """

    name: str
    path: str = ""
    num_threads: int = 1
    set_threads: Callable[[int], int] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Library:
    """A loaded BLAS, and how it spells the names of its functions."""

    path: str
    handle: ctypes.CDLL
    prefix: str
    suffix: str
    has_64_bit_sizes: bool

    def function(self, name: str) -> Any:  # noqa: ANN401
        """Find a function by its usual name; None where the library has none."""
        return getattr(self.handle, f"{self.prefix}{name}{self.suffix}", None)

    def describe(self) -> str:
        """Return name, version and kernels, or the name of the file where it reports none."""
        for name, brand in (("openblas_get_config", ""), ("bli_info_get_version_str", "BLIS ")):
            if report := self.function(name):
                report.restype = ctypes.c_char_p
                return brand + report().decode()
        if report := self.function("MKL_Get_Version_String"):
            text = ctypes.create_string_buffer(200)
            report(text, len(text))
            return text.value.decode().strip()
        return Path(self.path).name or "a BLAS that was loaded before"

    def set_threads(self, num_threads: int) -> int:
        """Set the number of threads, and return the number in use.

        The environment alone may come too late: the library may have read it already.
        """
        for setter in filter(None, map(self.function, THREAD_SETTERS)):
            setter(num_threads)
        ask = self.function("openblas_get_num_threads")
        return ask() if ask else num_threads

    def is_slow(self, num_threads: int) -> bool:
        """Whether it is BLIS (measured: a third of OpenBLAS's rate) or has no threads."""
        parallel = self.function("openblas_get_parallel")
        alone = parallel is not None and parallel() == 0 and num_threads > 1
        return alone or self.function("bli_info_get_version_str") is not None


def use_library(path: str, num_threads: int, must_be_fast: bool) -> Blas:
    """Check a library, and make MLX use its products.

    Args:
        path: a path, or a name for the loader; empty for the one that is loaded already.
        num_threads: how many threads are to share a product.
        must_be_fast: whether to refuse a library that is known to be slow.

    Raises:
        NotUsable: when it lacks a function, multiplies wrongly, or is loaded too late.
    """
    library = open_library(path)
    if must_be_fast and library.is_slow(num_threads):
        raise NotUsable(f"{path} is slow")
    check_product(library, np.float32)
    check_product(library, np.float64)
    if path:
        check_visibility(library)
        make_visible(library)
    used = library.set_threads(num_threads)
    return Blas(library.describe(), path or "preloaded", used, library.set_threads)


def open_library(path: str) -> Library:
    """Load a library without exporting its names, and find their spelling.

    Raises:
        NotUsable: when it cannot be loaded or lacks a product.
    """
    try:
        handle = ctypes.CDLL(path or None)
    except OSError as error:
        raise NotUsable(str(error)) from None
    for spelling in SPELLINGS:
        library = Library(path, handle, *spelling)
        if library.function("cblas_sgemm") and library.function("cblas_dgemm"):
            return library
    raise NotUsable(f"{path} has no cblas_sgemm and cblas_dgemm")


def check_product(library: Library, dtype: type) -> None:
    """Multiply two small matrices and compare with sums that need no BLAS.

    MLX passes sizes of 32 bits. A library that expects 64 bits under the usual names would read 32
    undefined bits more. Here these bits make each size negative, so that such a library fails.

    Raises:
        NotUsable: when the product is wrong.
    """
    size = 8
    a, b = np.arange(2 * size * size, dtype=dtype).reshape(2, size, size) / dtype(100)
    c = np.zeros_like(a)
    number = ctypes.c_float if dtype is np.float32 else ctypes.c_double
    wide_size = ctypes.c_int64(size if library.has_64_bit_sizes else size - (1 << 32))
    multiply = library.function("cblas_sgemm" if dtype is np.float32 else "cblas_dgemm")
    multiply(
        *(ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE, wide_size, wide_size, wide_size, number(1)),
        *(ctypes.c_void_p(a.ctypes.data), wide_size, ctypes.c_void_p(b.ctypes.data), wide_size),
        *(number(0), ctypes.c_void_p(c.ctypes.data), wide_size),
    )
    if not np.allclose(c, np.einsum("mk,nk->mn", a, b)):
        raise NotUsable(f"{library.path} multiplies wrongly, or takes sizes of 64 bits")


def check_visibility(library: Library) -> None:
    """Check that MLX will use this library, and not one that was loaded before.

    Raises:
        NotUsable: when it will not.
    """
    if sgemm_address(ctypes.CDLL(None)) not in (0, sgemm_address(library.handle)):
        raise NotUsable(f"{library.path} comes after a cblas_sgemm that was loaded before")
    if "mlx.core" in sys.modules:
        raise NotUsable("mlx was imported before pipeline.device")


def sgemm_address(handle: ctypes.CDLL) -> int:
    """Return the address of a library's `cblas_sgemm`; 0 where it has none."""
    if not hasattr(handle, "cblas_sgemm"):
        return 0
    return ctypes.cast(handle.cblas_sgemm, ctypes.c_void_p).value or 0


def make_visible(library: Library) -> None:
    """Export the products under their usual names to all libraries that are loaded later.

    Raises:
        NotUsable: when the shim cannot be built.
    """
    if not (library.prefix or library.suffix):
        ctypes.CDLL(library.path, ctypes.RTLD_GLOBAL)
        return
    try:
        shim = load_shim()
    except ShimError as error:
        raise NotUsable(str(error)) from None
    gemms = [library.function(f"cblas_{kind}gemm") for kind in "sd"]
    missing = shim.tidewheel_route(
        *(ctypes.cast(gemm, ctypes.c_void_p) for gemm in gemms), int(library.has_64_bit_sizes)
    )
    assert not missing, "open_library looks for both"
