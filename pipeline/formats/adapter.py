"""The trained weights in mlx-lm's adapter format, for `mlx_lm.generate --adapter-path`."""

from pathlib import Path

from pipeline.device import mx, nn
from pipeline.errors import ExportError
from pipeline.model.network.adapters import read_adapter_config, read_adapter_weights, save_adapter
from pipeline.model.network.base import assembled, read_manifest
from pipeline.model.network.upstream import load_adapters, load_model


def write(trained: Path, base_source: str, folder: Path) -> None:
    """Copy a trained adapter, and name its base in the config.

    Args:
        trained: a folder with adapters.safetensors and adapter_config.json.
        base_source: `model.source` of the base.
        folder: where to write.

    Raises:
        ExportError: when the format cannot hold what was trained.
    """
    config = read_adapter_config(trained)
    if config.get("own_head"):
        raise ExportError(
            "adapter: the trained head is a separate matrix, and mlx-lm cannot load one for this "
            "base, whose head is the embedding or is quantised.\n"
            "Use export.formats=[fused]."
        )
    weights = read_adapter_weights(trained)
    save_adapter(folder, weights, {**config, "model": base_source})


def read_back(base: Path, folder: Path) -> nn.Module:
    """Build base and adapter by the code of mlx-lm, in float32; weights are read when needed."""
    with assembled(base) as assembled_folder:
        model, _ = load_model(assembled_folder, lazy=True, strict=True)
        load_adapters(model, str(folder))
    model.set_dtype(mx.float32)
    return model


def export(base: Path, trained: Path, folder: Path) -> tuple[nn.Module, bool]:
    """Write the adapter and read it back. Nothing is rounded."""
    write(trained, read_manifest(base)["source"], folder)
    return read_back(base, folder), False
