"""Which layers and tensors of a model a name or a pattern means."""

import difflib
from fnmatch import fnmatchcase

from pipeline.device import nn
from pipeline.errors import ConfigError, report_problems
from pipeline.model.network import upstream
from pipeline.model.network.tree import blocks, own_arrays, quantized_layers

LINEAR = (nn.Linear, nn.QuantizedLinear, upstream.SwitchLinear, upstream.QuantizedSwitchLinear)
EMBEDDINGS = (nn.Embedding, nn.QuantizedEmbedding)
WITHOUT_DORA = (upstream.SwitchLinear, upstream.QuantizedSwitchLinear, nn.QuantizedEmbedding)
"""What mlx-lm adapts by LoRA alone."""
EVERY_LINEAR = "*"


def linear_layers(block: nn.Module) -> list[str]:
    """List the linear layers of a block by their names inside it."""
    return sorted(name for name, module in block.named_modules() if isinstance(module, LINEAR))


def outer_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return linear layers and embeddings that stand outside the blocks, by their whole names."""
    inside = {id(module) for block in blocks(model) for module in block.modules()}
    return {
        name: module
        for name, module in sorted(model.named_modules(), key=lambda entry: entry[0])
        if isinstance(module, (*LINEAR, *EMBEDDINGS)) and id(module) not in inside
    }


def layer_names(model: nn.Module, num_layers: int) -> tuple[list[str], list[str]]:
    """List what can be adapted: layers of the last blocks, and layers outside of blocks."""
    last = blocks(model)[-num_layers:]
    return sorted({name for block in last for name in linear_layers(block)}), [*outer_layers(model)]


def chosen_layers(inner: list[str], outer: list[str], targets: tuple[str, ...]) -> list[str]:
    """Pick the layers whose last name, or whole name, a target names or matches.

    `*` is every linear layer of the blocks: neither embeddings nor the head.

    Args:
        inner: layers of a block, by their names inside it.
        outer: layers outside of blocks, by their whole names.
        targets: names or patterns.

    Raises:
        ConfigError: when a target matches nothing, with the names there are.
    """
    matches = {
        target: [
            name
            for name in (inner if target == EVERY_LINEAR else inner + outer)
            if fnmatchcase(name, target) or fnmatchcase(name.rsplit(".", 1)[-1], target)
        ]
        for target in targets
    }
    problems = [f"{target}: matches no layer" for target in targets if not matches[target]]
    remedy = (
        f"The linear layers of a block are: {', '.join(inner)}\n"
        f"Outside of blocks there are: {', '.join(outer)}"
    )
    report_problems(ConfigError, f"lora.targets={list(targets)}:", problems, remedy)
    return sorted({name for found in matches.values() for name in found})


def refuse_for_dora(model: nn.Module, num_layers: int, keys: list[str]) -> None:
    """Refuse DoRA where mlx-lm has none.

    Raises:
        ConfigError: with the layers and their kinds.
    """
    places = [*(block.named_modules() for block in blocks(model)[-num_layers:])]
    found = {name: module for place in places for name, module in place} | outer_layers(model)
    problems = [
        f"{key}: {type(found[key]).__name__}"
        for key in keys
        if isinstance(found[key], WITHOUT_DORA)
    ]
    headline = "train.mode=dora: mlx-lm has no DoRA for these layers:"
    report_problems(
        ConfigError, headline, problems, "Name other lora.targets, or use train.mode=lora."
    )


def chosen_tensors(model: nn.Module, patterns: tuple[str, ...]) -> list[str]:
    """Pick the tensors that `train.tensors` names or matches, by their whole names.

    Raises:
        ConfigError: when a pattern matches nothing, with the nearest names, or a quantised tensor.
    """
    arrays = own_arrays(model)
    matches = {
        pattern: [name for name in arrays if fnmatchcase(name, pattern)] for pattern in patterns
    }
    problems = [
        f"{pattern}: matches no tensor; the nearest are {', '.join(nearest(pattern, [*arrays]))}"
        for pattern in patterns
        if not matches[pattern]
    ]
    chosen = sorted({name for found in matches.values() for name in found})
    packed = {id(value) for layer in quantized_layers(model) for value in layer.values()}
    problems += [f"{name}: is quantised" for name in chosen if id(arrays[name]) in packed]
    remedy = "Give whole names of tensors that are not quantised; `*` stands for any part of one."
    report_problems(ConfigError, f"train.tensors={list(patterns)}:", problems, remedy)
    return chosen


def nearest(name: str, names: list[str]) -> list[str]:
    """Return the three names that are most like one."""
    return difflib.get_close_matches(name, names, n=3, cutoff=0)
