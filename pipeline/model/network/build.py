"""A model as mlx-lm builds it from a config.json, with or without its weights."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.device import mx, nn
from pipeline.errors import ModelError
from pipeline.model.network import upstream
from pipeline.model.source.facts import language_part


def build(config: dict[str, Any]) -> nn.Module:
    """Build the architecture that a config.json names; no array is computed yet.

    Raises:
        ModelError: when mlx-lm does not know it, or its config.json lacks something.
    """
    try:
        return upstream.build_model(config)
    except (Exception, SystemExit) as error:  # each reads its settings in its own way; one exits
        raise ModelError(
            f"config.json: model_type={config.get('model_type')} cannot be built ({error!r}).\n"
            "Use an architecture that this version of mlx-lm has, with its whole config.json."
        ) from error


def stored_dtype(config: dict[str, Any]) -> mx.Dtype:
    """Read the type in which weights are stored; float32 where config.json does not name it.

    That of the whole goes before that of a language model among several modalities.

    Raises:
        ModelError: when it names another type than those of weights.
    """
    parts = (config, language_part(config))
    names = [part.get(key) for part in parts for key in ("dtype", "torch_dtype")]
    name = next((name for name in names if name not in (None, "auto")), "float32")
    found = getattr(mx, name.removeprefix("torch."), None)
    if not isinstance(found, mx.Dtype) or not mx.issubdtype(found, mx.floating):
        raise ModelError(
            f"config.json: torch_dtype={name} is no type of weights.\n"
            "Set it to float32, float16 or bfloat16, as the weights are."
        )
    return found


@contextlib.contextmanager
def linked(config: dict[str, Any], weights: list[Path]) -> Iterator[Path]:
    """Put config and shards into one temporary folder, as mlx-lm needs them, and yield it."""
    with tempfile.TemporaryDirectory(prefix="tidewheel-") as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        for number, path in enumerate(weights):
            (folder / f"model-{number:05d}.safetensors").symlink_to(path.resolve())
        yield folder


def load_lazily(folder: Path, source: Path) -> nn.Module:
    """Build the model of a folder over its weights; they are read when they are first needed.

    Args:
        folder: config.json and model*.safetensors, nothing else.
        source: the folder that the user knows, for the message.

    Raises:
        ModelError: when mlx-lm refuses it, as for tensors that are missing or too many.
    """
    try:
        return upstream.load_model(folder, lazy=True, strict=True)[0]
    except Exception as error:  # each architecture and quantisation fails in its own way
        reason = repr(error).replace(str(folder), str(source))
        raise ModelError(
            f"{source}: mlx-lm cannot load it ({reason}).\n"
            "Use weights and config.json that belong together, of a kind mlx-lm can load."
        ) from error
