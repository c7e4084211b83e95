"""A model as its config.json describes it, in the types it will have, without any weights."""

from typing import Any

from pipeline.device import nn
from pipeline.model.network.base import wanted_dtype
from pipeline.model.network.build import build, stored_dtype
from pipeline.model.source.facts import fact

GROUP_SIZE = 64
"""Weights that share a scale, where a base is thought of as quantised: mlx-lm's default."""


def blueprint(config: dict[str, Any], dtype: str, bits: int | None = None) -> nn.Module:
    """Build a model whose arrays have shapes and types but are never computed.

    Args:
        config: a config.json.
        dtype: `model.dtype`.
        bits: think of the base as quantised to so many bits; None: as config.json says.
    """
    model = build(config)
    quantization = fact(config, "quantization") or {}
    if bits is not None:
        quantization = {"group_size": GROUP_SIZE, "bits": bits}
    wanted = wanted_dtype(dtype)
    model.set_dtype(stored_dtype(config) if wanted is None else wanted)
    if quantization:
        quantize(model, quantization)
    model.freeze()
    return model


def quantize(model: nn.Module, quantization: dict[str, Any]) -> None:
    """Pack weights as mlx-lm does: layers may have settings of their own, or be left out."""
    settings = {
        key: quantization[key] for key in ("group_size", "bits", "mode") if key in quantization
    }

    def choose(name: str, module: Any) -> Any:  # noqa: ANN401
        if name in quantization:
            return quantization[name]
        fits = hasattr(module, "to_quantized") and "weight" in module
        return fits and module.weight.shape[-1] % settings["group_size"] == 0

    nn.quantize(model, **settings, class_predicate=choose)
