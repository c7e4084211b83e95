"""The one import of MLX, which makes it use a fast BLAS, and facts of the device.

All other modules import `mx`, `nn`, `optimizers` and the tree functions from here.
"""

import contextlib
import importlib.metadata
import logging
import platform
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.blas.choose import SETTING, confirm_blas, route_blas
from pipeline.errors import DeviceError
from pipeline.external.offline import go_offline
from pipeline.files import sha256_bytes

go_offline()
BLAS = route_blas()

import mlx.core as mx  # noqa: E402
from mlx import nn, optimizers  # noqa: E402
from mlx.utils import (  # noqa: E402
    tree_flatten,
    tree_map,
    tree_map_with_path,
    tree_reduce,
    tree_unflatten,
)

__all__ = [
    "mx",
    "nn",
    "optimizers",
    "tree_flatten",
    "tree_map",
    "tree_map_with_path",
    "tree_reduce",
    "tree_unflatten",
]

log = logging.getLogger(__name__)
MLX_VERSION = importlib.metadata.version("mlx")
CPU_CACHE_BYTES = 32 << 20
MOST_CPU_STREAMS = 4


def is_cpu() -> bool:
    """Whether MLX computes on the CPU."""
    return mx.default_device().type == mx.DeviceType.cpu


def has_fused_attention() -> bool:
    """Whether attention with a mask is one kernel, so that packed rows cost little."""
    return not is_cpu()


def compute_dtype() -> mx.Dtype:
    """Choose the dtype to train in: on the CPU, MLX passes only float32 products to the BLAS."""
    return mx.float32 if is_cpu() else mx.bfloat16


def warn_of_slow_type(dtype: str) -> None:
    """Warn where a CPU is to compute in 16 bits.

    Args:
        dtype: `model.dtype`; `auto` is never slow.
    """
    if is_cpu() and dtype in ("bfloat16", "float16"):
        log.warning(
            "model.dtype=%s: a CPU computes in 16 bits 30 to 50 times as slowly as in float32, "
            "because only float32 products reach the BLAS.\nSet model.dtype=float32.",
            dtype,
        )


def num_cpu_streams() -> int:
    """Count the parts of a batch that are computed at the same time: one per thread of the BLAS.

    It is 1 on a GPU, and where there are many threads: each part needs memory for its gradients,
    and only two threads were measured (1.2 times as fast as without parts).
    """
    return BLAS.num_threads if is_cpu() and BLAS.num_threads <= MOST_CPU_STREAMS else 1


@contextlib.contextmanager
def products_on_one_thread() -> Iterator[None]:
    """Compute each matrix product of the CPU on the calling thread alone, in this block."""
    if BLAS.set_threads is None:
        yield
        return
    BLAS.set_threads(1)
    try:
        yield
    finally:
        BLAS.set_threads(BLAS.num_threads)


def probe_product() -> np.ndarray:
    """Multiply two fixed matrices, so large that all threads and the usual kernels take part.

    Returns:
        Their product, (128, 128) in float32. Its last bits differ between BLAS libraries.

    Raises:
        DeviceError: when the product is wrong.
    """
    noise = (np.arange(2 * 128 * 1024, dtype=np.uint32) * np.uint32(2654435761)) / 2**32 - 0.5
    a, b = noise.astype(np.float32).reshape(2, 128, 1024)
    product = np.array(mx.array(a) @ mx.array(b).T)
    error = np.abs(product[:8] - np.einsum("mk,nk->mn", a[:8].astype(np.float64), b)).max()
    if not error < 0.1:
        raise DeviceError(
            f"{describe_device()}: a matrix product is wrong by {error:.3g}.\n"
            f"Set {SETTING}=none, or reinstall mlx."
        )
    return product


def describe_device() -> str:
    """Describe the device in one line: MLX, and on the CPU the BLAS and its threads."""
    device = f"MLX {MLX_VERSION} on the {mx.default_device().type.name}"
    return f"{device}, {BLAS.num_threads} threads of {BLAS.name}" if is_cpu() else device


def numerics_fingerprint() -> dict[str, str | int]:
    """Return all that decides the last bits of a result, to compare runs by it."""
    return {
        "device": mx.default_device().type.name,
        "device_name": str(mx.device_info().get("device_name", "")),
        "machine": platform.machine(),
        "mlx": MLX_VERSION,
        "mlx_lm": importlib.metadata.version("mlx-lm"),
        "blas": BLAS.name,
        "blas_threads": BLAS.num_threads,
        "product": sha256_bytes(PROBE.tobytes())[:16],
    }


@dataclass(frozen=True)
class MlxMemory:
    """What MLX's allocator has in use, keeps for reuse, and had in use at most, in bytes."""

    active_bytes: int
    cache_bytes: int
    peak_bytes: int


def mlx_memory() -> MlxMemory:
    """Read how much memory MLX reports. The peak does not include the cache."""
    return MlxMemory(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())


def cache_limit_bytes() -> int:
    """Return how much freed memory MLX keeps for reuse at most, in bytes, and empty the cache."""
    limit = mx.set_cache_limit(0)  # there is no function to read it
    mx.set_cache_limit(limit)
    return limit


def reset_peak_memory() -> None:
    """Reset the peak to what is in use now."""
    mx.reset_peak_memory()


def limit_mlx_memory(limit_bytes: int) -> None:
    """Limit the bytes that MLX's allocator holds, and those that it keeps for reuse.

    On a GPU it keeps up to a tenth of the limit. On the CPU the C library keeps freed memory too,
    so MLX keeps a fixed number of bytes at most. This is set once, so that no step has to clear it.
    """
    mx.set_memory_limit(limit_bytes)
    mx.set_cache_limit(min(CPU_CACHE_BYTES, limit_bytes) if is_cpu() else limit_bytes // 10)


def matmul_flops_per_second(size: int = 1024, seconds: float = 0.5) -> float:
    """Measure how fast MLX multiplies square matrices, which bounds the speed of training.

    The dtype is that of training: float32 on the CPU, bfloat16 elsewhere.

    Args:
        size: rows and columns.
        seconds: how long to repeat the product, after a first one that is not timed.

    Returns:
        Floating-point operations per second of the fastest product.
    """
    a, b = mx.random.normal((2, size, size), dtype=compute_dtype(), key=mx.random.key(0))
    mx.eval(a @ b)
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        mx.eval(a @ b)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


@contextlib.contextmanager
def keep_open_file_limit() -> Iterator[None]:
    """Prevent imports in the block from changing the limit on open files.

    mlx-lm sets it to a fixed number when it is imported, and a hard limit cannot be raised again.
    """
    change = resource.setrlimit

    def change_others(kind: int, limits: tuple[int, int]) -> None:
        if kind != resource.RLIMIT_NOFILE:
            change(kind, limits)

    resource.setrlimit = change_others
    try:
        yield
    finally:
        resource.setrlimit = change


PROBE = probe_product()
if is_cpu():
    BLAS = confirm_blas(BLAS)
