"""Adapters added to the weights that they change."""

from typing import Any

from pipeline.device import mx, nn, tree_unflatten
from pipeline.model.network import upstream
from pipeline.model.network.tree import adapted_layers


def fuse(model: nn.Module) -> None:
    """Replace every adapted layer of a model by a plain one that computes the same, in float32.

    Nothing is computed yet, so that the new weights need not be in memory together.

    LoRA: W' = W + scale · (A B)ᵀ (arXiv 2106.09685 §4.1). DoRA: the rows of W', each scaled to its
    learnt length m (arXiv 2402.09353 eq. 5). A quantised weight is dequantised and stays so,
    because quantising it again would round the adapter away.
    """
    fused = [(name, fused_layer(module)) for name, module in adapted_layers(model)]
    model.update_modules(tree_unflatten(fused))


def fused_layer(layer: Any) -> nn.Module:  # noqa: ANN401
    """Return a plain layer that computes what a layer and its adapter do together."""
    name = "embedding" if "embedding" in layer else "linear"
    layer[name].set_dtype(mx.float32)  # with the scales, which decide the type after dequantising
    upstream.dequantize_model(layer)
    layer[name].set_dtype(mx.float32)  # some kinds of quantisation give bfloat16 all the same
    return layer.fuse()
