"""Uncertainty of measurements: clustered errors and paired comparisons."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from pipeline.objective.likelihood import Z_95


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error, its 95 % interval, and the number of clusters.

    Error and interval are None where there is one cluster, which cannot tell how much others vary.
    """

    value: float
    standard_error: float | None
    low: float | None
    high: float | None
    n: int


def ratio_estimate(
    sums: Float[np.ndarray, " clusters"], counts: Float[np.ndarray, " clusters"]
) -> Estimate:
    """Estimate a quotient of totals, such as loss per token, where documents are the clusters.

    The tokens of a document share its difficulty, so an error that treats them as independent would
    be too small. This is the error of a ratio estimator, by linearisation (Cochran, Sampling
    Techniques, §6.3).
    """
    n = len(sums)
    value = float(sums.sum() / counts.sum())
    if n == 1:
        return Estimate(value, None, None, None, n)
    residuals = sums - value * counts
    error = math.sqrt(n / (n - 1) * float(np.square(residuals).sum())) / float(counts.sum())
    return Estimate(value, error, value - Z_95 * error, value + Z_95 * error, n)


def paired_share_difference(
    before: Bool[np.ndarray, " items"],
    after: Bool[np.ndarray, " items"],
    clusters: np.ndarray,
) -> Estimate:
    """Estimate by how much a share differs between two models on the same items.

    Items of one cluster (one entity in both orders) are not independent, so the error is clustered
    (Miller 2024, arXiv 2411.00640, §2.2 and §4.2).
    """
    differences = after.astype(np.float64) - before.astype(np.float64)
    _, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, differences)
    return ratio_estimate(sums, np.bincount(index).astype(np.float64))


def mcnemar_p(before: Bool[np.ndarray, " items"], after: Bool[np.ndarray, " items"]) -> float:
    """Return the exact two-sided p-value under the hypothesis of equal models (McNemar 1947)."""
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    discordant = gained + lost
    tail = sum(math.comb(discordant, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def difference_metrics(name: str, difference: Estimate) -> dict[str, Any]:
    """Return a difference with its interval, and whether these items resolve it from 0.

    Args:
        name: the key of the difference.
        difference: of two models on the same items.
    """
    return {
        name: difference.value,
        f"{name}_low": difference.low,
        f"{name}_high": difference.high,
        "resolved": is_resolved(difference),
        "smallest_detectable_difference": smallest_detectable_difference(difference),
    }


def is_resolved(difference: Estimate) -> bool:
    """Whether the interval of a difference leaves out 0."""
    if difference.low is None or difference.high is None:
        return False
    return difference.low > 0 or difference.high < 0


def smallest_detectable_difference(estimate: Estimate) -> float | None:
    """Return the difference that so many items reveal with 80 % power at the 5 % level."""
    if estimate.standard_error is None:
        return None
    return (Z_95 + 0.8416212335729143) * estimate.standard_error
