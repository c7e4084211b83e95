"""Base and adapter fused into one Hugging Face folder of safetensors."""

import shutil
from pathlib import Path
from typing import Any

from pipeline.device import mx, nn
from pipeline.external.inputs import TOKENIZER_FILES
from pipeline.files import write_json
from pipeline.formats.fuse import fuse
from pipeline.model.adapters import load_adapter
from pipeline.model.base import open_base
from pipeline.model.build import stored_dtype
from pipeline.model.check import QUANTIZED
from pipeline.model.head import untied
from pipeline.model.shards import save_model
from pipeline.model.upstream import dequantize_model, load_model

COPIED = ("generation_config.json", *TOKENIZER_FILES)


def write(model: nn.Module, config: dict[str, Any], base: Path, folder: Path) -> None:
    """Fuse a tuned float32 model, and save it in the type in which its base is stored.

    Weights are rounded once, at the end. A quantised base is saved dequantised. Each weight is
    read, fused, rounded and written before the next one.

    Args:
        model: base and adapter, their weights not read yet; it has none after the call.
        config: the base's config.json, untied where training gave the head a separate matrix.
        base: the folder with the base's tokenizer.
        folder: where to write.
    """
    fuse(model)
    dequantize_model(model)  # the layers that no adapter was fused into
    stored = stored_dtype(config)
    model.set_dtype(stored)
    save_model(folder, model)
    plain = {name: value for name, value in config.items() if name not in QUANTIZED}
    plain["torch_dtype"] = str(stored).removeprefix("mlx.core.")
    write_json(folder / "config.json", plain)
    for name in COPIED:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)


def read_back(folder: Path) -> nn.Module:
    """Build the fused model by the code of mlx-lm, in float32; weights are read when needed."""
    model, _ = load_model(folder, lazy=True, strict=True)
    model.set_dtype(mx.float32)
    return model


def export(base: Path, trained: Path, folder: Path) -> tuple[nn.Module, bool]:
    """Write the fused model and read it back."""
    tuned = open_base(base, "float32")
    own_head = load_adapter(tuned.model, trained).get("own_head")
    tuned.model.set_dtype(mx.float32)  # as in `export.open_tuned`
    config = untied(tuned.config) if own_head else tuned.config
    write(tuned.model, config, base, folder)
    return read_back(folder), stored_dtype(config) != mx.float32
