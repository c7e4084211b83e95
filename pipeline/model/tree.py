"""The parts of a model by name, with types that MLX's own tree functions do not give."""

from typing import Any, cast

from pipeline.device import mx, nn, tree_flatten


def named_arrays(tree: Any) -> dict[str, mx.array]:  # noqa: ANN401
    """Give the arrays of a tree by their dotted names, in the tree's own order."""
    return dict(cast(list[tuple[str, mx.array]], tree_flatten(tree)))


def trainable_arrays(model: nn.Module) -> dict[str, mx.array]:
    """Give the weights that training changes."""
    return named_arrays(model.trainable_parameters())


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:  # noqa: ANN401
    """Give the shape of every array of a tree by its dotted name."""
    return {name: value.shape for name, value in named_arrays(tree).items()}


def blocks(model: nn.Module) -> list[nn.Module]:
    """Give the transformer blocks, the first one first."""
    return cast(Any, model).layers


def quantized_layers(model: nn.Module) -> list[Any]:
    """List the layers whose weight is packed into integers, whatever their class."""
    return [
        layer for _, layer in model.named_modules() if "scales" in layer and "bits" in vars(layer)
    ]
