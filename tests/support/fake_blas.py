"""A BLAS that is built here, and processes that choose one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.blas import choose

ROOT = Path(__file__).resolve().parents[2]


TELL = """
import json
from pipeline.device import BLAS
from pipeline.blas.choose import is_bound
print(json.dumps([BLAS.path, BLAS.name, BLAS.num_threads, is_bound()]))
"""


FAKE = """
#include <stdint.h>
#include <stdio.h>
#define GEMM(NAME, REAL, FACTOR) void NAME( \\
    int o, int ta, int tb, SIZE m, SIZE n, SIZE k, REAL alpha, \\
    const REAL *a, SIZE lda, const REAL *b, SIZE ldb, REAL beta, REAL *c, SIZE ldc) { \\
  if (m < 0) return; \\
  for (SIZE i = 0; i < m; i++) for (SIZE j = 0; j < n; j++) { \\
    REAL sum = 0; \\
    for (SIZE l = 0; l < k; l++) \\
      sum += a[ta == 111 ? i * lda + l : l * lda + i] * b[tb == 111 ? l * ldb + j : j * ldb + l]; \\
    c[i * ldc + j] = FACTOR * alpha * sum + (beta ? beta * c[i * ldc + j] : 0); } }
GEMM(cblas_sgemm, float, SINGLE)
GEMM(DGEMM, double, DOUBLE)
int openblas_get_parallel(void) { return 0; }
const char *openblas_get_config(void) { return "Fake BLAS 1.2.3"; }
"""
"""A serial BLAS that multiplies each product by SINGLE or DOUBLE, and takes its sizes as SIZE."""


def start(cache, code=TELL, **variables):
    """Start a process with a cache of its own and the environment changed."""
    unset = {"TIDEWHEEL_BLAS", "LD_PRELOAD", "CC", "OMP_NUM_THREADS"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"XDG_CACHE_HOME": str(cache), "OPENBLAS_NUM_THREADS": "2", **variables}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Told(NamedTuple):
    """What a process says about itself."""

    path: str
    name: str
    num_threads: int
    is_bound: bool
    warnings: str


def told(process):
    out, warnings = process.communicate(timeout=120)
    assert process.returncode == 0, warnings
    return Told(*json.loads(out.splitlines()[-1]), warnings)


def refusal(process):
    """Wait for a process that must fail, and give what it said."""
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    return said


def numpy_has_its_own():
    return any("openblas" in path for path in choose.numpy_libraries())


needs_numpy_blas = pytest.mark.skipif(not numpy_has_its_own(), reason="NumPy without OpenBLAS")
