"""The parts of a model by name, with types that MLX's own tree functions do not give."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, cast

from pipeline.device import mx, nn, tree_flatten, tree_unflatten


def named_arrays(tree: Any) -> dict[str, mx.array]:  # noqa: ANN401
    """Return the arrays of a tree by their dotted names, in the tree's own order."""
    return dict(cast(list[tuple[str, mx.array]], tree_flatten(tree)))


def trainable_arrays(model: nn.Module) -> dict[str, mx.array]:
    """Return the weights that training changes."""
    return named_arrays(model.trainable_parameters())


def put_arrays(module: nn.Module, arrays: dict[str, mx.array]) -> None:
    """Replace arrays of a module by their dotted names."""
    module.update(tree_unflatten(list(arrays.items())))


def materialize(model: nn.Module) -> None:
    """Compute the weights of a model one after the other.

    What a weight is made from is then in memory for one weight at a time, not for all of them.
    """
    for value in named_arrays(model.parameters()).values():
        mx.eval(value)


@contextlib.contextmanager
def arrays_replaced(
    module: nn.Module, own: dict[str, mx.array], others: Iterable[mx.array]
) -> Iterator[None]:
    """Replace arrays of a module until the end of the `with`.

    Args:
        module: whose arrays they are.
        own: the arrays it has before and after, by their dotted names.
        others: the arrays it has meanwhile, in the same order.
    """
    put_arrays(module, dict(zip(own, others, strict=True)))
    try:
        yield
    finally:
        put_arrays(module, own)


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:  # noqa: ANN401
    """Return the shape of every array of a tree by its dotted name."""
    return {name: value.shape for name, value in named_arrays(tree).items()}


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks in order."""
    return cast(Any, model).layers


def quantized_layers(model: nn.Module) -> list[Any]:
    """List the layers whose weight is packed into integers, whatever their class."""
    return [
        layer for _, layer in model.named_modules() if "scales" in layer and "bits" in vars(layer)
    ]


def own_arrays(model: nn.Module, inside_blocks: bool = True) -> dict[str, mx.array]:
    """Return the weights that modules hold themselves, by their dotted names.

    Args:
        model: a whole model.
        inside_blocks: whether those of the blocks are wanted too.
    """
    inner = {id(module) for block in blocks(model) for module in block.modules()}
    return {
        f"{name}.{leaf}" if name else leaf: value
        for name, module in model.named_modules()
        if inside_blocks or id(module) not in inner
        for leaf, value in module.items()
        if isinstance(value, mx.array) and not leaf.startswith("_")
    }


def every_array(model: nn.Module) -> list[mx.array]:
    """List all arrays that modules hold, also those that are no parameters (rotary frequencies)."""
    return [
        value
        for module in model.modules()
        for value in module.values()
        if isinstance(value, mx.array)
    ]


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """List the layers that carry an adapter."""
    for name, module in model.named_modules():
        if "lora_a" in module:
            yield name, module


def unfreeze(model: nn.Module, names: Iterable[str]) -> None:
    """Make weights trainable by their dotted names."""
    modules = dict(model.named_modules())
    for name in names:
        owner, _, leaf = name.rpartition(".")
        modules[owner].unfreeze(keys=[leaf], recurse=False)


def dimensions(layer: Any) -> tuple[int, int]:  # noqa: ANN401
    """Return the number of outputs and inputs of a matrix, packed or not."""
    outputs, inputs = layer["weight"].shape[-2:]
    return outputs, layer["scales"].shape[-1] * layer.group_size if "scales" in layer else inputs
