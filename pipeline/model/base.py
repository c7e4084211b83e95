"""The base model: checked, described by a manifest, and loaded from where its files lie.

`models/base` holds config, tokenizer and `manifest.json` (source, hash per file, dtype and shape
per tensor). The shards of a model that exists are never copied; a scratch model's are beside it.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.device import compute_dtype, is_cpu, mx, nn
from pipeline.errors import ModelError, report_problems
from pipeline.files import cached_sha256_file, read_json, write_json
from pipeline.model import upstream
from pipeline.model.folder import WeightFile, read_config, read_weight_files
from pipeline.model.tree import named_arrays, trainable_arrays

MANIFEST = "manifest.json"
FLOAT_DTYPES = {"F32", "F16", "BF16"}
QUANTIZED = ("quantization", "quantization_config")


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


def write_manifest(base: Path, folder: Path, source: str, tokenizer_sha256: str) -> dict[str, Any]:
    """Check a model folder and describe it in `base`; the weights stay where they are.

    Raises:
        ModelError: when the weights cannot be used.
    """
    config = read_config(folder)
    check_weights(folder, config)
    manifest = describe(folder, source, tokenizer_sha256)
    if folder != base:
        shutil.copyfile(folder / "config.json", base / "config.json")
        manifest["folder"] = str(folder.resolve())
    write_json(base / MANIFEST, manifest)
    return manifest


def check_weights(folder: Path, config: dict[str, Any]) -> None:
    """Compare the weights with the architecture, and look at every number once.

    Raises:
        ModelError: with every tensor that is missing, extra, of the wrong type or shape, or not
            finite; or when tied weights differ.
    """
    files = read_weight_files(folder)
    quantized = any(config.get(name) for name in QUANTIZED)
    problems = [] if quantized else list(wrong_dtypes(files))
    weights: dict[str, mx.array] = {}
    for file in files:
        weights.update(mx.load(str(file.path)))  # type: ignore[arg-type]
    problems += tied_problems(weights, config)
    if not quantized and not problems:
        problems += misfits(weights, config)
    problems += not_finite(weights)
    headline = f"{len(problems)} of {len(weights)} tensors in {folder} cannot be used:"
    remedy = "Fetch or save the model again; its config.json must be the one it was trained with."
    report_problems(ModelError, headline, problems, remedy)


def wrong_dtypes(files: list[WeightFile]) -> Iterator[str]:
    """Say which tensors are no floating-point numbers."""
    for file in files:
        for tensor in file.tensors:
            if tensor.dtype not in FLOAT_DTYPES:
                allowed = ", ".join(sorted(FLOAT_DTYPES))
                yield f"{tensor.name}: dtype {tensor.dtype} in {file.path.name}; must be {allowed}"


def tied_problems(weights: dict[str, mx.array], config: dict[str, Any]) -> list[str]:
    """Say whether an output head differs from the embedding it should be tied to."""
    head, embedding = weights.get("lm_head.weight"), weights.get("model.embed_tokens.weight")
    if not config.get("tie_word_embeddings") or head is None or embedding is None:
        return []
    if head.shape == embedding.shape and bool(mx.array_equal(head, embedding)):
        return []
    return ["lm_head.weight: differs from model.embed_tokens.weight, to which config.json ties it"]


def misfits(weights: dict[str, mx.array], config: dict[str, Any]) -> list[str]:
    """Say which tensors the architecture lacks, has too many, or has in another shape."""
    model = build(config)
    sanitize = getattr(model, "sanitize", None)
    found = {
        name: value.shape for name, value in (sanitize(weights) if sanitize else weights).items()
    }
    wanted = {name: value.shape for name, value in named_arrays(model.parameters()).items()}
    problems = [f"{name}: not in any file" for name in sorted(wanted.keys() - found.keys())]
    problems += [
        f"{name}: config.json has no place for it" for name in sorted(found.keys() - wanted.keys())
    ]
    problems += [
        f"{name}: file {found[name]}, config.json {wanted[name]}"
        for name in sorted(found.keys() & wanted.keys())
        if found[name] != wanted[name]
    ]
    return problems


def not_finite(weights: dict[str, mx.array]) -> list[str]:
    """Say which tensors hold NaN or infinity; one tensor is in memory at a time."""
    problems = []
    for name in sorted(weights):
        value = weights.pop(name)
        if mx.issubdtype(value.dtype, mx.floating) and not bool(mx.all(mx.isfinite(value))):
            count = int(mx.sum(~mx.isfinite(value)))
            problems.append(f"{name}: {count} of {value.size} numbers are not finite")
        weights[name] = mx.array(0)
    return problems


def build(config: dict[str, Any]) -> nn.Module:
    """Build the architecture that a config.json names; no array is computed yet.

    Raises:
        ModelError: when mlx-lm does not know it, or its config.json lacks something.
    """
    try:
        model_class, arguments_class = upstream.model_classes(config)
        return model_class(arguments_class.from_dict(config))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"config.json: model_type={config.get('model_type')} cannot be built ({error}).\n"
            "Use an architecture that this version of mlx-lm has, with its whole config.json."
        ) from error


def weight_paths(base: Path) -> list[Path]:
    """Find the files that `models/base` describes, unchanged since.

    Raises:
        ModelError: when one is gone or is another file now.
    """
    manifest = read_json(base / MANIFEST)
    folder = Path(manifest.get("folder", base))
    paths, problems = [], []
    for entry in manifest["files"]:
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


@contextlib.contextmanager
def assembled(base: Path) -> Iterator[Path]:
    """Give a folder in which config and shards stand side by side, by links, as mlx-lm wants it."""
    paths = weight_paths(base)
    with tempfile.TemporaryDirectory(prefix="tidewheel-") as name:
        folder = Path(name)
        shutil.copyfile(base / "config.json", folder / "config.json")
        for number, path in enumerate(paths):
            (folder / f"model-{number:05d}.safetensors").symlink_to(path.resolve())
        yield folder


def load_base(base: Path, dtype: str) -> BaseModel:
    """Load the model that `models/base` describes, in memory at once, frozen.

    Args:
        base: the folder that the weights stage wrote.
        dtype: `model.dtype`; `auto` is float32 on a CPU, where other types are slow.
    """
    config = read_config(base)
    with assembled(base) as folder:
        model, _ = upstream.load_model(folder, lazy=True, strict=True)
        wanted = wanted_dtype(dtype)
        if wanted is not None:
            model.set_dtype(wanted)
        mx.eval(model.parameters())  # before the links go, and so that no file is read later
    model.freeze()
    return BaseModel(model, config)


def wanted_dtype(dtype: str) -> mx.Dtype | None:
    """Turn `model.dtype` into a type; None leaves the weights as stored."""
    if dtype == "auto":
        return compute_dtype() if is_cpu() else None
    return getattr(mx, dtype)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Count trainable and all parameters; a quantised weight counts as what it stands for."""
    trainable = sum(value.size for value in trainable_arrays(model).values())
    total = 0
    for _, module in model.named_modules():
        packing = 32 // module.bits if isinstance(module, QUANTIZED_LAYERS) else 1
        for name, value in module.items():
            if isinstance(value, mx.array) and name not in {"scales", "biases"}:
                total += value.size * (packing if name == "weight" else 1)
    return trainable, total


QUANTIZED_LAYERS = (nn.QuantizedLinear, nn.QuantizedEmbedding)
