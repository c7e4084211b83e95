"""The one place that uses what mlx-lm does not declare public; its contract is tested.

The version is pinned. Importing mlx-lm lowers the limit on open files; here that is undone.
"""

from pipeline.device import keep_open_file_limit

with keep_open_file_limit():
    from mlx_lm.models.base import create_causal_mask
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
    from mlx_lm.tokenizer_utils import TokenizerWrapper
    from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
    from mlx_lm.utils import _get_classes as model_classes
    from mlx_lm.utils import (
        dequantize_model,
        load_model,
        load_tokenizer,
        quantize_model,
        save_model,
    )

__all__ = [
    "QuantizedSwitchLinear",
    "SwitchLinear",
    "TokenizerWrapper",
    "create_causal_mask",
    "dequantize_model",
    "linear_to_lora_layers",
    "load_adapters",
    "load_model",
    "load_tokenizer",
    "make_prompt_cache",
    "model_classes",
    "quantize_model",
    "save_model",
]
