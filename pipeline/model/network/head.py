"""The output head: what comes after the blocks, and a separate matrix where it shares one."""

import copy
from typing import Any

from pipeline.device import mx, nn
from pipeline.errors import ConfigError
from pipeline.model.network.targets import outer_layers
from pipeline.model.network.tree import dimensions, own_arrays, shapes
from pipeline.model.source.facts import NESTED

HEADS = ("lm_head", "output", "head")
FINAL_NORMS = ("norm", "norm_f", "ln_f", "final_layernorm", "final_norm", "output_norm")
TIED = "tie_word_embeddings"
REMEDY = "Name what is to be trained: train.mode=tensors train.tensors=[...]."


def head_tensors(model: nn.Module) -> list[str]:
    """List the tensors of the final norm and of the output head.

    Raises:
        ConfigError: when one of them cannot be told by its name, with the names there are.
    """
    outside = {name: name.split(".")[-2:-1] for name in own_arrays(model, inside_blocks=False)}
    heads = [name for name, layer in outside.items() if layer and layer[0] in HEADS]
    norms = [name for name, layer in outside.items() if layer and layer[0] in FINAL_NORMS]
    if not (heads and norms):
        raise ConfigError(
            "train.mode=head: final norm and output head cannot be told by their names. Outside "
            f"of blocks the model has {', '.join(outside)}.\n{REMEDY}"
        )
    return sorted(heads + norms)


def give_own_head(model: Any) -> bool:  # noqa: ANN401
    """Add a separate matrix for the output head, where it has none that can be trained.

    A tied head is the embedding: to train it would change what goes into the blocks. A quantised
    one is packed into integers. The new matrix starts as a copy, so that no logit changes; the
    base keeps what it has.

    Returns:
        Whether there is a new matrix.

    Raises:
        ConfigError: when mlx-lm has no form of this architecture whose head is not tied.
    """
    if getattr(getattr(model, "args", None), TIED, False):
        untie(model)
        return True
    packed = [name for name in HEADS if name in model and "scales" in model[name]]
    for name in packed:
        setattr(model, name, plain_copy(model[name]))
    return bool(packed)


def untie(model: Any) -> None:  # noqa: ANN401
    """Turn a model with a tied head into the one that mlx-lm builds where it is not tied."""
    args = copy.copy(model.args)
    setattr(args, TIED, False)
    tied, untied = (shapes(type(model)(each).parameters()) for each in (model.args, args))
    added = {name: shape for name, shape in untied.items() if name not in tied}
    tables = [
        layer
        for layer in outer_layers(model).values()
        if hasattr(layer, "as_linear") and dimensions(layer) == added.get("lm_head.weight")
    ]
    if len(tables) != 1 or len(added) != 1 or tied.keys() - untied.keys():
        raise ConfigError(
            f"train.mode=head: {type(model).__module__} has no form whose head is not the "
            f"embedding.\n{REMEDY}"
        )
    setattr(model.args, TIED, False)
    if hasattr(model, TIED):  # some architectures keep a copy of the setting
        setattr(model, TIED, False)
    model.lm_head = plain_copy(tables[0])


def plain_copy(layer: Any) -> nn.Linear:  # noqa: ANN401
    """Make a frozen linear layer of what a layer's matrix stands for, in memory of its own."""
    copied = nn.Linear(1, 1, bias=False)
    copied.weight = layer.weight + 0
    if "scales" in layer:
        packed = layer.weight, layer.scales, layer.biases
        copied.weight = mx.dequantize(
            *packed, group_size=layer.group_size, bits=layer.bits, mode=layer.mode
        )
    if "bias" in layer:
        copied.bias = layer.bias
    copied.freeze()
    return copied


def untied(config: dict[str, Any]) -> dict[str, Any]:
    """Change a config.json so that the output head has a separate matrix."""
    text = {NESTED: untied(config[NESTED])} if config.get(NESTED) else {}
    return {**config, **text, TIED: False}
