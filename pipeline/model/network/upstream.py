"""The one place that uses what mlx-lm does not declare public; its contract is tested.

The version is pinned. Importing mlx-lm lowers the limit on open files; here that is undone. No
code that comes with a model is run, and nobody is asked whether to.
"""

import copy
from pathlib import Path
from typing import Any

from pipeline.device import keep_open_file_limit, nn
from pipeline.errors import ModelError
from pipeline.model.network.rotation import short_wavelengths, unrounded_wavelengths
from pipeline.model.source.facts import fact

with keep_open_file_limit():
    from mlx_lm.models.base import create_causal_mask
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.models.rope_utils import SuScaledRoPE, YarnRoPE
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
    from mlx_lm.tokenizer_utils import TokenizerWrapper
    from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
    from mlx_lm.utils import _get_classes as model_classes
    from mlx_lm.utils import (
        dequantize_model,
        get_total_parameters,
        make_shards,
        quantize_model,
    )
    from mlx_lm.utils import load_model as load_any_model
    from mlx_lm.utils import load_tokenizer as load_any_tokenizer

__all__ = [
    "QuantizedSwitchLinear",
    "SwitchLinear",
    "TokenizerWrapper",
    "build_model",
    "create_causal_mask",
    "dequantize_model",
    "get_total_parameters",
    "linear_to_lora_layers",
    "load_adapters",
    "load_model",
    "load_tokenizer",
    "make_prompt_cache",
    "make_shards",
    "model_classes",
    "quantize_model",
]


def load_model(
    model_path: Path, lazy: bool = False, strict: bool = True
) -> tuple[nn.Module, dict[str, Any]]:
    """Load the model of a folder, and return it with its config.json.

    Args:
        model_path: holds config.json and model*.safetensors.
        lazy: whether weights are read when they are first needed.
        strict: whether names and shapes must be those of the architecture.
    """
    model, config = load_any_model(model_path, lazy, strict, trust_remote_code=False)
    correct_rotation(model, config)
    return model, config


def build_model(config: dict[str, Any]) -> nn.Module:
    """Build the architecture that a config.json names; no array is computed yet."""
    model_class, arguments_class = model_classes(config)
    model = model_class(arguments_class.from_dict(copy.deepcopy(config)))  # some change it
    correct_rotation(model, config)
    return model


def correct_rotation(model: nn.Module, config: dict[str, Any]) -> None:
    """Turn positions as transformers does, where mlx-lm has another rotary embedding."""
    scaling = fact(config, "rope_scaling") or {}
    for module in model.modules():
        if isinstance(module, SuScaledRoPE):
            module._freqs = short_wavelengths(config, module.dim)
            module._scale = scaling.get("short_mscale", module._scale)
        if isinstance(module, YarnRoPE) and scaling.get("truncate") is False:
            module._freqs = unrounded_wavelengths(config, module.dims)


def load_tokenizer(folder: Path, named: Path | None = None) -> TokenizerWrapper:
    """Load the tokenizer of a folder with what mlx-lm needs to generate text.

    Args:
        folder: holds config.json and the files of the tokenizer.
        named: how the user knows it, where that is another path.

    Raises:
        ModelError: when transformers has no such tokenizer, or its files are damaged.
    """
    try:
        return load_any_tokenizer(folder, {"trust_remote_code": False})
    except Exception as error:  # each tokenizer fails in its own way
        reason = f"{error!r}".replace(str(folder), str(named or folder))
        raise ModelError(
            f"{named or folder}: the tokenizer cannot be loaded by transformers ({reason}).\n"
            "Save it again with transformers' `save_pretrained`, and name that folder."
        ) from error
