"""Adapters folded into the weights they stand beside."""

from typing import Any

from pipeline.device import mx, nn, tree_unflatten
from pipeline.model import upstream
from pipeline.model.tree import adapted_layers


def fuse(model: nn.Module) -> None:
    """Fold every adapter into its weight, in float32, in place.

    LoRA: W' = W + scale · (A B)ᵀ (arXiv 2106.09685 §4.1). DoRA: the rows of that, each stretched
    to its learnt length m (arXiv 2402.09353 eq. 5). A quantised weight is dequantised first:
    requantising would round the adapter away.
    """
    fused = [(name, fused_layer(module)) for name, module in adapted_layers(model)]
    model.update_modules(tree_unflatten(fused))
    mx.eval(model.parameters())


def fused_layer(layer: Any) -> nn.Module:  # noqa: ANN401
    """Return a plain layer that does what a layer and its adapter do together."""
    name = "embedding" if "embedding" in layer else "linear"
    layer[name].set_dtype(mx.float32)  # scales too, hence what a weight unpacks to
    upstream.dequantize_model(layer)
    layer[name].set_dtype(mx.float32)  # some kinds of quantisation unpack to bfloat16
    return layer.fuse()
