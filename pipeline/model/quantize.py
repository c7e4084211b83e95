"""The base with its weights packed into a few bits, by mlx-lm's own quantisation."""

import shutil
from pathlib import Path
from typing import Any

from pipeline.device import nn
from pipeline.errors import ConfigError, report_problems
from pipeline.files import write_json
from pipeline.model.network import upstream
from pipeline.model.network.build import build, linked, load_lazily
from pipeline.model.shards import save_model
from pipeline.model.source.check import QUANTIZED, check_weights
from pipeline.model.source.folder import read_config, read_weight_files
from pipeline.model.source.ties import tied_by_files


def write_quantized(folder: Path, base: Path, bits: int, group_size: int) -> None:
    """Write a model into `base` with its weights packed; what mlx-lm leaves plain stays so.

    Args:
        folder: config.json and safetensors; may be `base` itself, whose weights are then replaced.
        base: where config.json and model*.safetensors are written.
        bits: of a weight.
        group_size: weights that share a scale.

    Raises:
        ConfigError: when it is quantised already, or layers cannot be packed.
        ModelError: when the weights cannot be used.
    """
    files = read_weight_files(folder)
    config = tied_by_files(read_config(folder), files)
    refuse_quantized(folder, config, bits)
    check_weights(folder, config)
    refuse_indivisible(build(config), group_size)
    with linked(config, [file.path for file in files]) as links:
        model = load_lazily(links, folder)
    model, packed = upstream.quantize_model(model, config, group_size, bits)
    if folder == base:
        for file in files:
            file.path.unlink()  # they are open still, and read until the last weight is packed
    elif (folder / "generation_config.json").is_file():
        shutil.copyfile(folder / "generation_config.json", base / "generation_config.json")
    save_model(base, model)
    write_json(base / "config.json", packed)


def refuse_quantized(folder: Path, config: dict[str, Any], bits: int) -> None:
    """Refuse to round twice.

    Raises:
        ConfigError: when the model is quantised already.
    """
    if any(config.get(name) for name in QUANTIZED):
        raise ConfigError(
            f"model.quantize_bits={bits}: {folder} is quantised already.\n"
            "Set model.quantize_bits=null, or name the model that it was made from."
        )


def refuse_indivisible(model: nn.Module, group_size: int) -> None:
    """Refuse what mlx-lm would leave plain without a word.

    Raises:
        ConfigError: with the layers whose width is no multiple of the group size.
    """
    headline = f"model.quantize_group_size={group_size} does not divide the width of these layers:"
    remedy = "Give a smaller one (32, 64 and 128 are there), or set model.quantize_bits=null."
    report_problems(ConfigError, headline, indivisible(model, group_size), remedy)


def indivisible(model: Any, group_size: int) -> list[str]:  # noqa: ANN401
    """List the layers that would be packed but for their width."""
    chosen = getattr(model, "quant_predicate", None) or (lambda name, layer: True)
    return [
        f"{name}: {layer.weight.shape[-1]}"
        for name, layer in sorted(model.named_modules(), key=lambda entry: entry[0])
        if hasattr(layer, "to_quantized")
        and layer.weight.shape[-1] % group_size
        and chosen(name, layer)
    ]


def quantizable(config: dict[str, Any], group_size: int) -> bool:
    """Whether a model could be quantised: it is not yet, and all layers fit."""
    packed = any(config.get(name) for name in QUANTIZED)
    return not packed and not indivisible(build(config), group_size)
