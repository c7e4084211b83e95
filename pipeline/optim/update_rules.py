"""How one tensor is updated: MLX's optimizers, and others where MLX's differ from their papers.

Of each optimizer only `init_single` and `apply_single` are used, in float32.
"""

import math
from typing import Any

from pipeline.device import mx, optimizers
from pipeline.sums import mean_along, sum_all

ORTHOGONAL_STEPS = 5
ORTHOGONAL_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
MATCHED_RMS = 0.2
TINY = 1e-7


def bias_correction(beta: float, step: mx.array) -> mx.array:
    """Return 1 - beta^step, to the last bits of float32 also where beta is near 1.

    The plain difference 1 - 0.999^1 has a relative error of 5e-5 in float32.
    """
    return -mx.expm1(step.astype(mx.float32) * (math.log(beta) if beta else -math.inf))


class Adam(optimizers.Adam):
    """Adam with bias correction (arXiv 1412.6980 alg. 1)."""

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict) -> mx.array:
        """Return the new weights; both moments are updated in `state`."""
        beta1, beta2 = self.betas
        first = beta1 * state["m"] + (1 - beta1) * gradient
        second = beta2 * state["v"] + (1 - beta2) * mx.square(gradient)
        state["m"], state["v"] = first, second
        rate = self.learning_rate / bias_correction(beta1, self.step)
        scale = mx.rsqrt(bias_correction(beta2, self.step))
        return parameter - rate * first / (mx.sqrt(second) * scale + self.eps)


class AdamW(Adam):
    """Adam with decoupled weight decay (arXiv 1711.05101 alg. 2)."""

    def __init__(self, *args: Any, weight_decay: float, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.weight_decay = weight_decay

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict) -> mx.array:
        """Shrink the weights, then do as Adam does."""
        decayed = parameter * (1 - self.learning_rate * self.weight_decay)
        return super().apply_single(gradient, decayed, state)


class Sgd(optimizers.SGD):
    """Gradient descent as in MLX, but no velocity is kept where momentum is 0."""

    def init_single(self, parameter: mx.array, state: dict) -> None:
        """Start at rest."""
        if self.momentum:
            super().init_single(parameter, state)


class Adafactor(optimizers.Adafactor):
    """Adafactor with the given learning rate (arXiv 1804.04235 alg. 4), for any size of weights.

    Its means are long sums, and MLX's own are off by what these lose; it also forms the share of
    the new moments as 1 - (1 - share), which costs two digits of seven.
    """

    def __init__(self, learning_rate: float, eps: float, weight_decay: float) -> None:
        super().__init__(learning_rate, (eps, 0.0), weight_decay=weight_decay)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict) -> mx.array:
        """Return the new weights; the means of squares are updated in `state`."""
        square, share = mx.square(gradient) + self.eps[0], self.step**self.decay_rate
        new = {"exp_avg_sq": square}
        if gradient.ndim >= 2:
            rows, columns = mean_along(square, -1), mean_along(square, -2)
            new = {"exp_avg_sq_row": rows, "exp_avg_sq_col": columns}
        for kind, value in new.items():
            state[kind] = (1 - share) * state[kind] + share * value
        update = gradient * inverse_root(state)
        size = mx.sqrt(sum_all(mx.square(update)) / update.size)
        decayed = parameter * (1 - self.learning_rate * self.weight_decay)
        return decayed - self.learning_rate * update / mx.maximum(1.0, size)


def inverse_root(state: dict[str, mx.array]) -> mx.array:
    """Estimate 1 / sqrt(mean square) of each weight from what Adafactor remembers."""
    if "exp_avg_sq" in state:
        return mx.rsqrt(state["exp_avg_sq"])
    rows, columns = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
    rows = rows / mean_along(rows, -1)[..., None]
    return mx.rsqrt(rows)[..., None] * mx.rsqrt(columns)[..., None, :]


class Muon(optimizers.Optimizer):
    """Momentum made orthogonal, for matrices (kellerjordan.github.io/posts/muon).

    MLX's own adds the weight decay to the gradient, where making it orthogonal all but removes it.
    Here it is decoupled, and an update's root mean square is that of AdamW's, so that one learning
    rate serves both (arXiv 2502.16982 §2.2).
    """

    def __init__(self, learning_rate: float, momentum: float, weight_decay: float) -> None:
        super().__init__()
        self.learning_rate, self.momentum = learning_rate, momentum
        self.weight_decay = weight_decay

    def init_single(self, parameter: mx.array, state: dict) -> None:
        """Start at rest."""
        state["m"] = mx.zeros_like(parameter)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict) -> mx.array:
        """Return the new weights; the momentum is updated in `state`."""
        momentum = self.momentum * state["m"] + (1 - self.momentum) * gradient
        state["m"] = momentum
        ahead = self.momentum * momentum + (1 - self.momentum) * gradient  # Nesterov's
        rate = self.learning_rate * (MATCHED_RMS * math.sqrt(max(gradient.shape)))
        decayed = parameter * (1 - self.learning_rate * self.weight_decay)
        return decayed - rate * orthogonalized(ahead)


def orthogonalized(matrix: mx.array) -> mx.array:
    """Bring the singular values of a matrix near 1, by Newton-Schulz steps of the fifth order."""
    a, b, c = ORTHOGONAL_COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / mx.maximum(mx.sqrt(sum_all(mx.square(x))), TINY)
    for _ in range(ORTHOGONAL_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if is_tall else x
