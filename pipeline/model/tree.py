"""The parts of a model by name, with types that MLX's own tree functions do not give."""

from typing import Any, cast

from pipeline.device import mx, nn, tree_flatten


def named_arrays(tree: Any) -> dict[str, mx.array]:  # noqa: ANN401
    """Give the arrays of a tree by their dotted names, in the tree's own order."""
    return dict(cast(list[tuple[str, mx.array]], tree_flatten(tree)))


def trainable_arrays(model: nn.Module) -> dict[str, mx.array]:
    """Give the weights that training changes."""
    return named_arrays(model.trainable_parameters())


def blocks(model: nn.Module) -> list[nn.Module]:
    """Give the transformer blocks, the first one first."""
    return cast(Any, model).layers
