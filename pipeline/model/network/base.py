"""The base model: checked, described by a manifest, and loaded from where its files lie.

`models/base` holds config, tokenizer and `manifest.json` (source, hash per file, dtype and shape
per tensor). The shards of a model that exists are never copied; a scratch model's lie next to it.
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.device import compute_dtype, is_cpu, mx, nn
from pipeline.errors import ModelError, report_problems
from pipeline.external.inputs import model_folder
from pipeline.external.json_files import Remedy, read_foreign, read_own
from pipeline.external.paths import is_gguf
from pipeline.external.shapes import COUNT, TEXT, Every, Maybe, one_or_more
from pipeline.files import (
    cached_sha256_file,
    sha256_bytes,
    sha256_file,
    write_json,
)
from pipeline.model.network.build import linked, load_lazily
from pipeline.model.network.tree import (
    materialize,
    named_arrays,
    quantized_layers,
    trainable_arrays,
)
from pipeline.model.source.check import check_weights
from pipeline.model.source.folder import FOREIGN, WeightFile, read_config, read_weight_files
from pipeline.model.source.ties import tied_by_files

MANIFEST = "manifest.json"
GENERATION = "generation_config.json"
GENERATION_SHAPE = {f"{name}_token_id": Maybe(one_or_more(COUNT)) for name in ("bos", "eos", "pad")}
SETTINGS = ("config.json", GENERATION)
FILES_SHAPE = [
    {
        "path": TEXT,
        "size": COUNT,
        "sha256": TEXT,
        "tensors": Every({"dtype": TEXT, "shape": [COUNT]}),
    }
]
MANIFEST_SHAPE = {
    "source": TEXT,
    "tokenizer_sha256": TEXT,
    "folder": Maybe(TEXT),
    "files": FILES_SHAPE,
    "unpacked": Maybe({"folder": TEXT, "files": FILES_SHAPE}),
}
REMAKE = Remedy(ModelError, "Run the weights stage again: `dvc repro --force weights`.")


@dataclass(frozen=True)
class BaseModel:
    """A loaded model and the `config.json` it was built from."""

    model: nn.Module
    config: dict[str, Any]


def describe(folder: Path, source: str, tokenizer_sha256: str) -> dict[str, Any]:
    """Describe the weights of a folder, as `models/base/manifest.json` has it.

    Args:
        folder: where config.json and the safetensors lie.
        source: how the user named it.
        tokenizer_sha256: the hash of the tokenizer that goes with it.
    """
    return {
        "source": source,
        "tokenizer_sha256": tokenizer_sha256,
        "files": [describe_file(file) for file in read_weight_files(folder)],
    }


def describe_file(file: WeightFile) -> dict[str, Any]:
    """Describe one file of weights."""
    return {
        "path": file.path.name,
        "size": file.path.stat().st_size,
        "sha256": cached_sha256_file(file.path),
        "tensors": {
            tensor.name: {"dtype": tensor.dtype, "shape": list(tensor.shape)}
            for tensor in file.tensors
        },
    }


def write_manifest(
    base: Path, folder: Path, source: str, tokenizer_sha256: str, unpacked: Path | None = None
) -> dict[str, Any]:
    """Check a model folder and describe it in `base`; the weights stay where they are.

    Args:
        base: where the manifest is written.
        folder: holds config.json and the weights.
        source: how the user named it.
        tokenizer_sha256: the hash of the tokenizer that goes with it.
        unpacked: the folder that it was quantised from; it may be the same, where it was not.

    Raises:
        ModelError: when the weights cannot be used.
    """
    stated = read_config(folder)
    config = tied_by_files(stated, read_weight_files(folder))
    if (folder / GENERATION).exists():
        read_foreign(folder / GENERATION, GENERATION_SHAPE, FOREIGN)
    check_weights(folder, config)
    manifest = describe(folder, source, tokenizer_sha256)
    if folder != base:
        for name in SETTINGS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, base / name)
        manifest["folder"] = str(folder.resolve())
    if config != stated:
        write_json(base / "config.json", config)
    if unpacked is not None and unpacked != folder:
        files = [describe_file(file) for file in read_weight_files(unpacked)]
        manifest["unpacked"] = {"folder": str(unpacked.resolve()), "files": files}
    write_json(base / MANIFEST, manifest)
    return manifest


def size_metrics(manifest: dict[str, Any]) -> dict[str, int]:
    """Count the tensors that a manifest describes, and the bytes of their files."""
    files = manifest["files"]
    return {
        "base_tensors": sum(len(file["tensors"]) for file in files),
        "base_bytes": sum(file["size"] for file in files),
    }


def read_manifest(base: Path) -> dict[str, Any]:
    """Read the manifest of `models/base`.

    Raises:
        ModelError: when it is not what the weights stage wrote.
    """
    return read_own(base / MANIFEST, MANIFEST_SHAPE, REMAKE)


def weight_paths(base: Path) -> list[Path]:
    """Find the files that `models/base` describes, unchanged since.

    Raises:
        ModelError: when one is gone or is another file now.
    """
    manifest = read_manifest(base)
    return unchanged_files(base, weight_folder(base, manifest), manifest["files"])


def unchanged_files(base: Path, folder: Path, entries: list[dict[str, Any]]) -> list[Path]:
    """Find the files of a folder that entries of a manifest describe.

    Args:
        base: the folder of the manifest, for the message.
        folder: holds the files.
        entries: of the manifest.

    Raises:
        ModelError: with each file that is gone or is another one now.
    """
    paths, problems = [], []
    for entry in entries:
        path = folder / entry["path"]
        paths.append(path)
        if not path.is_file():
            problems.append(f"{path}: is gone")
        elif cached_sha256_file(path) != entry["sha256"]:
            problems.append(f"{path}: has changed")
    remedy = "Run `make repro`, which takes the model as it is now."
    report_problems(
        ModelError, f"{base} describes files that are not as they were:", problems, remedy
    )
    return paths


def weight_folder(base: Path, manifest: dict[str, Any]) -> Path:
    """Return the folder of the weights; that of a GGUF file is made again where it is gone."""
    if "folder" not in manifest:
        return base
    return (
        model_folder(manifest["source"])
        if is_gguf(manifest["source"])
        else Path(manifest["folder"])
    )


@contextlib.contextmanager
def assembled(base: Path) -> Iterator[Path]:
    """Link config and shards into one temporary folder, as mlx-lm needs them, and yield it."""
    with linked(read_config(base), weight_paths(base)) as folder:
        yield folder


def load_base(base: Path, dtype: str) -> BaseModel:
    """Load the model that `models/base` describes, in memory at once, frozen.

    Args:
        base: the folder that the weights stage wrote.
        dtype: `model.dtype`; `auto` is float32 on a CPU, where other types are slow.

    Raises:
        ModelError: when a file of weights is not what it was, or cannot be loaded.
    """
    opened = open_base(base, dtype)
    materialize(opened.model)  # so that no file is read later
    return opened


def open_base(base: Path, dtype: str) -> BaseModel:
    """Build the model that `models/base` describes, frozen; a weight is read when it is needed.

    The files stay open until then, so that they may be renamed or deleted.

    Args:
        base: the folder that the weights stage wrote.
        dtype: `model.dtype`.

    Raises:
        ModelError: when a file of weights is not what it was, or cannot be loaded.
    """
    config = read_config(base)
    with assembled(base) as folder:
        model = load_lazily(folder, base)
    wanted = wanted_dtype(dtype)
    if wanted is not None:
        model.set_dtype(wanted)
    model.freeze()
    return BaseModel(model, config)


def weights_identity(base: Path, dtype: str) -> dict[str, str]:
    """Identify the loaded weights of `models/base` by hashes.

    Args:
        base: the folder that the weights stage wrote.
        dtype: `model.dtype`.
    """
    files = [entry["sha256"] for entry in read_manifest(base)["files"]]
    return {
        "config": sha256_file(base / "config.json"),
        "weights": sha256_bytes("\n".join(files).encode()),
        "dtype": str(wanted_dtype(dtype) or "as stored"),
    }


def wanted_dtype(dtype: str) -> mx.Dtype | None:
    """Turn `model.dtype` into a type; None leaves the weights as stored."""
    if dtype == "auto":
        return compute_dtype() if is_cpu() else None
    return getattr(mx, dtype)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Count trainable and all parameters; a quantised weight counts as what it stands for."""
    trainable = sum(value.size for value in trainable_arrays(model).values())
    total = sum(value.size for value in named_arrays(model.parameters()).values())
    for layer in quantized_layers(model):
        packed = layer.parameters()
        helpers = sum(packed[name].size for name in ("scales", "biases") if name in packed)
        total += packed["weight"].size * 32 // layer.bits - packed["weight"].size - helpers
    return trainable, total
