"""Rotary embeddings of which mlx-lm computes another one than transformers.

Each is a wavelength in tokens over 2π for each pair of numbers of a head.
"""

import math
from typing import Any

from jaxtyping import Float

from pipeline.device import mx
from pipeline.model.source.facts import fact

DEFAULT_BASE = 10_000.0
"""Of rotary embeddings, where config.json has no `rope_theta`."""
Wavelengths = Float[mx.array, " pairs"]


def plain_wavelengths(config: dict[str, Any], size: int) -> Wavelengths:
    """Compute those of an embedding that is not scaled (arXiv 2104.09864 §3.2.2).

    Args:
        config: of the model.
        size: numbers of a head that are turned.
    """
    base = fact(config, "rope_theta") or DEFAULT_BASE
    return base ** (mx.arange(0, size, 2, dtype=mx.float32) / size)


def short_wavelengths(config: dict[str, Any], size: int) -> Wavelengths:
    """Compute those of short texts, where long ones have others (arXiv 2402.13753).

    mlx-lm takes those of long texts at any length.
    """
    factors = mx.array(fact(config, "rope_scaling")["short_factor"], dtype=mx.float32)
    return factors * plain_wavelengths(config, size)


def unrounded_wavelengths(config: dict[str, Any], size: int) -> Wavelengths:
    """Compute those of YaRN whose ramp is not widened to whole pairs (arXiv 2309.00071 §3.2).

    mlx-lm always widens it, as is done where `truncate` is true.
    """
    scaling = fact(config, "rope_scaling")
    plain = plain_wavelengths(config, size)
    base = fact(config, "rope_theta") or DEFAULT_BASE
    tokens = scaling["original_max_position_embeddings"]

    def pair(turns: int | float) -> float:
        """Return the pair that makes so many turns in a text, as a fraction of pairs."""
        return size * math.log(tokens / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(pair(scaling.get("beta_fast") or 32), 0)
    high = min(pair(scaling.get("beta_slow") or 1), size - 1)
    stretched = mx.clip((mx.arange(size // 2) - low) / max(high - low, 1e-3), 0, 1)
    return 1 / (stretched / (scaling["factor"] * plain) + (1 - stretched) / plain)
