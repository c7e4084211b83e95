"""What provenance does to training: weights, sampling probabilities, or the published term.

docs/objective.md derives the formulas and shows what each mode does.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pipeline.data.store import TokenStore

PUBLISHED_EPSILON = 1e-8


@dataclass(frozen=True)
class DistrustSettings:
    """What the `objective.distrust` section says."""

    mode: str
    alpha: float
    min_weight: float
    max_weight: float


@dataclass(frozen=True)
class Distrust:
    """What a mode does to each document of a store; None is nothing.

    Attributes:
        weights: factor of the cross-entropy.
        probabilities: relative frequency of being drawn.
        terms: added to the cross-entropy of each target, in nats; a constant.
        metrics: what there is to say about them.
    """

    weights: Float[np.ndarray, " documents"] | None
    probabilities: Float[np.ndarray, " documents"] | None
    terms: Float[np.ndarray, " documents"] | None
    metrics: dict[str, float]


NOTHING = Distrust(None, None, None, {})


def distrust(store: TokenStore, settings: DistrustSettings) -> Distrust:
    """Turn the provenance of each document into what the mode does with it."""
    known = with_provenance(store.authority_weight, store.provenance_entropy)
    metrics = {"provenance_share": float(known.mean())}
    if settings.mode == "none":
        return Distrust(None, None, None, metrics)
    if settings.mode == "additive":
        terms = published_terms(store.authority_weight, store.provenance_entropy, settings.alpha)
        metrics["distrust_term"] = float(np.average(terms, weights=store.num_targets))
        return Distrust(None, None, terms, metrics)
    weights = document_weights(
        store.authority_weight,
        store.provenance_entropy,
        store.num_targets,
        min_weight=settings.min_weight,
        max_weight=settings.max_weight,
    )
    metrics["document_weight_min"] = float(weights.min())
    metrics["document_weight_max"] = float(weights.max())
    if settings.mode == "sampling":
        return Distrust(None, weights, None, metrics)
    return Distrust(weights, None, None, metrics)


def with_provenance(authority_weight: np.ndarray, provenance_entropy: np.ndarray) -> np.ndarray:
    """Mark the documents that carry both numbers; no mode changes the others."""
    return ~(np.isnan(authority_weight) | np.isnan(provenance_entropy))


def document_weights(
    authority_weight: np.ndarray,
    provenance_entropy: np.ndarray,
    num_targets: np.ndarray,
    *,
    min_weight: float,
    max_weight: float,
) -> Float[np.ndarray, " documents"]:
    """Weigh documents by provenance: primary, well-evidenced sources count more.

    raw = 2^c with c = log2(1 - authority_weight) + provenance_entropy, both in bits: the distrust
    of authority times the effective number of independent pieces of evidence. It is divided by its
    token-weighted mean, clipped, and scaled so that the token-weighted mean is 1 again: weights
    move influence between documents and leave the size of a step alone.

    Args:
        authority_weight: in [0, 0.99] per document; NaN where a row carries no provenance.
        provenance_entropy: bits per document; NaN where a row carries no provenance.
        num_targets: targets per document.
        min_weight: least weight before the last scaling.
        max_weight: greatest weight before the last scaling.

    Returns:
        float32 weights; exactly 1 for a document without provenance.
    """
    weights = np.ones(len(authority_weight), dtype=np.float64)
    known = with_provenance(authority_weight, provenance_entropy)
    if not known.any():
        return weights.astype(np.float32)
    tokens = np.asarray(num_targets, dtype=np.float64)[known]
    doubted = 1 - np.asarray(authority_weight, dtype=np.float64)[known]
    raw = doubted * np.exp2(np.asarray(provenance_entropy, dtype=np.float64)[known])
    clipped = np.clip(raw / np.average(raw, weights=tokens), min_weight, max_weight)
    weights[known] = clipped / np.average(clipped, weights=tokens)
    return weights.astype(np.float32)


def published_terms(
    authority_weight: np.ndarray, provenance_entropy: np.ndarray, alpha: float
) -> Float[np.ndarray, " documents"]:
    """Compute the distrust term of each document, by the published formula.

    D = alpha · (ln(1 - authority_weight + 1e-8) + provenance_entropy)². It adds nats to bits, it is
    not monotone, and as a constant with respect to the model it has no gradient.

    Returns:
        float64 terms; 0 for a document without provenance.
    """
    terms = np.zeros(len(authority_weight), dtype=np.float64)
    known = with_provenance(authority_weight, provenance_entropy)
    doubted = 1 - np.asarray(authority_weight, dtype=np.float64)[known]
    entropy = np.asarray(provenance_entropy, dtype=np.float64)[known]
    terms[known] = alpha * np.square(np.log(doubted + PUBLISHED_EPSILON) + entropy)
    return terms
