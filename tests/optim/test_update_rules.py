"""How one tensor is updated: MLX's optimizers, and where they are not what they are named after."""

import math

import numpy as np
import pytest

from pipeline.device import mx
from pipeline.optim.update_rules import bias_correction, orthogonalized


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999, 0.999999])
@pytest.mark.parametrize("step", [1, 2, 10, 1000, 10**6])
def test_the_bias_correction_is_exact(beta, step):
    found = float(bias_correction(beta, mx.array(step, mx.uint64)))
    assert found == pytest.approx(-math.expm1(step * math.log(beta)) if beta else 1.0, rel=3e-7)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (1, 8)])
def test_orthogonal_is_with_singular_values_near_one(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values = np.linalg.svd(np.array(orthogonalized(mx.array(matrix))), compute_uv=False)
    assert values.min() > 0.5
    assert values.max() < 1.3
    assert mx.array_equal(orthogonalized(mx.zeros(shape)), mx.zeros(shape))
