"""Base and adapter fused into one Hugging Face folder, whose files are those of the base again."""

import shutil
from pathlib import Path
from typing import Any

from pipeline.device import mx, nn, tree_map
from pipeline.errors import ExportError, ModelError
from pipeline.external.paths import INDEX
from pipeline.external.tokenizer_files import tokenizer_names
from pipeline.files import read_json, write_json
from pipeline.formats.fuse import fuse
from pipeline.model.network.adapters import load_adapter
from pipeline.model.network.base import GENERATION, open_base
from pipeline.model.network.head import untied
from pipeline.model.network.upstream import dequantize_model, load_model
from pipeline.model.own_code import MAP, TOKENIZER
from pipeline.model.source.check import QUANTIZED
from pipeline.model.stored import StoredTensors


def write(model: nn.Module, config: dict[str, Any], base: Path, folder: Path) -> bool:
    """Fuse a tuned float32 model, and save it as its base is stored: same files, names and types.

    Weights are rounded once, at the end. A quantised base is saved dequantised. What the model
    does not read, such as a vision tower, is copied. Each weight is read, fused, rounded and
    written before the next one.

    Args:
        model: base and adapter, their weights not read yet; it has none after the call.
        config: the base's config.json, untied where training gave the head a separate matrix.
        base: what the weights stage wrote.
        folder: where to write.

    Returns:
        Whether a weight was rounded.

    Raises:
        ExportError: when the weights cannot be turned back into tensors of the base's files.
    """
    fuse(model)
    dequantize_model(model)  # the layers that no adapter was fused into
    model.set_dtype(mx.float32)
    try:
        tensors = StoredTensors(model, base)
    except ModelError as error:
        raise ExportError(f"fused: {error}") from error
    model.update(tree_map(lambda _: mx.array([]), model.parameters()))
    write_json(folder / INDEX, tensors.write(folder))
    plain = {name: value for name, value in config.items() if name not in QUANTIZED}
    write_json(folder / "config.json", plain)
    copy_settings(base, folder)
    return tensors.rounded


def copy_settings(base: Path, folder: Path) -> None:
    """Copy the tokenizer and the settings of generation, without code of their own."""
    for name in (GENERATION, *tokenizer_names(base)):
        if (base / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(base / name, folder / name)
    settings = read_json(folder / TOKENIZER) if (folder / TOKENIZER).is_file() else {}
    if settings.pop(MAP, None) is not None:
        write_json(folder / TOKENIZER, settings)


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
    rounded = write(tuned.model, config, base, folder)
    return read_back(folder), rounded
