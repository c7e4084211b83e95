"""The one place that uses what mlx-lm does not declare public; its contract is tested.

The version is pinned. Importing mlx-lm lowers the limit on open files; here that is undone. No
code that comes with a model is run, and nobody is asked whether to.
"""

import functools
from pathlib import Path

from pipeline.device import keep_open_file_limit
from pipeline.errors import ModelError

with keep_open_file_limit():
    from mlx_lm.models.base import create_causal_mask
    from mlx_lm.models.cache import make_prompt_cache
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

load_model = functools.partial(load_any_model, trust_remote_code=False)


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
