"""The conflicts suite: which source a model follows for entities that are not in the training."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Bool

from pipeline.evaluate.statistics import (
    difference_metrics,
    mcnemar_p,
    paired_share_difference,
)
from pipeline.objective.likelihood import ConflictItem, Scores, wilson


def summarize(items: Sequence[ConflictItem], base: Scores, tuned: Scores) -> dict[str, Any]:
    """Return shares with intervals for the base and the tuned model, and their difference.

    In a contest, the share of items is counted in which the primary source's value is chosen. In a
    control both sources are of one class, and the value quoted first is counted. The shares of
    controls should not change.
    """
    metrics: dict[str, Any] = {}
    for kind in sorted({item.kind for item in items}):
        chosen = np.array([item.kind == kind for item in items])
        wanted = np.array([item.counted for item in items])[chosen]
        clusters = np.array([item.cluster for item in items])[chosen]
        before, after = base.choices[chosen] == wanted, tuned.choices[chosen] == wanted
        metrics[kind] = compare(before, after, clusters)
    metrics["mass_on_options"] = {
        "base": float(np.exp(base.log_mass).mean()),
        "tuned": float(np.exp(tuned.log_mass).mean()),
    }
    return metrics


def compare(
    before: Bool[np.ndarray, " items"], after: Bool[np.ndarray, " items"], clusters: np.ndarray
) -> dict[str, Any]:
    """Compare two models on the same items."""
    return {
        "n": len(before),
        "base": asdict(wilson(int(before.sum()), len(before))),
        "tuned": asdict(wilson(int(after.sum()), len(after))),
        **difference_metrics("difference", paired_share_difference(before, after, clusters)),
        "mcnemar_p": mcnemar_p(before, after),
    }


def item_log(items: Sequence[ConflictItem], base: Scores, tuned: Scores) -> list[dict[str, Any]]:
    """Return one row per item, with the scores and the choice of both models."""
    return [
        {
            "id": item.id,
            "kind": item.kind,
            "cluster": item.cluster,
            "primary": item.primary,
            "base": {"choice": int(base.choices[index]), "scores": base.values[index].tolist()},
            "tuned": {"choice": int(tuned.choices[index]), "scores": tuned.values[index].tolist()},
        }
        for index, item in enumerate(items)
    ]
