"""One BLAS library: checks that it multiplies as MLX expects, and makes it visible to MLX."""

import sys

import numpy as np
import pytest

from pipeline import device
from pipeline.blas import library

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is a choice on Linux only"),
    pytest.mark.skipif(not device.is_cpu(), reason="MLX computes on a GPU"),
]


@pytest.mark.skipif(not device.BLAS.path, reason="no fast BLAS was found")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sizes_of_32_bits_are_widened(dtype):
    library.check_product(library.open_library(""), dtype)  # what MLX sees, shim and all


@pytest.mark.parametrize(
    ("renamed", "description"),
    [
        ("openblas_get_config", "Fake BLAS 1.2.3"),
        ("bli_info_get_version_str", "BLIS Fake BLAS 1.2.3"),
        ("something_else", "libfake.so"),
    ],
)
def test_a_library_describes_itself(make_fake, renamed, description):
    fake = library.open_library(str(make_fake(openblas_get_config=renamed)))
    assert fake.describe() == description
