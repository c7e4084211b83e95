"""Whether a folder's weights are those of its config.json, checked before any training.

Names, types and shapes are compared by the files' headers; then every number is looked at once.
"""

from pathlib import Path
from typing import Any

from pipeline.device import mx, nn
from pipeline.errors import ModelError, report_problems
from pipeline.model.network.build import build, linked, load_lazily
from pipeline.model.network.tree import shapes
from pipeline.model.source.folder import WeightFile, read_weight_files
from pipeline.model.source.probe import check_builds, check_computes, check_depth
from pipeline.model.source.ties import tied_problems
from pipeline.model.source.unread import check_all_read

FLOAT_DTYPES = {"F32", "F16", "BF16"}
QUANTIZED = ("quantization", "quantization_config")


def check_weights(folder: Path, config: dict[str, Any]) -> None:
    """Compare the weights with the architecture, and look at every number once.

    Raises:
        ModelError: when config.json cannot be computed, or only in part; with every tensor that is
            missing, extra, of the wrong type or shape, or not finite; or when tied weights differ.
    """
    files = read_weight_files(folder)
    check_depth(folder, config, files)
    check_builds(folder, config)
    check_all_read(folder, config, build(config))
    packed = any(config.get(name) for name in QUANTIZED)
    if packed:
        with linked(config, [file.path for file in files]) as links:
            load_lazily(links, folder)
    problems = [] if packed else misfits(files, config)
    if not problems:  # else sizes that no file has would be computed
        check_computes(folder, config)
    weights: dict[str, mx.array] = {}
    for file in files:
        wrong = [] if packed else wrong_dtypes(file)
        problems += wrong
        weights.update({} if wrong else mx.load(str(file.path)))  # type: ignore[arg-type]
    problems += tied_problems(weights, config)
    problems += not_finite(weights)
    headline = f"{folder}: tensors that cannot be used ({len(problems)}):"
    remedy = "Fetch or save the model again; its config.json must be the one it was trained with."
    report_problems(ModelError, headline, problems, remedy)


def wrong_dtypes(file: WeightFile) -> list[str]:
    """List the tensors whose type cannot be trained."""
    allowed = ", ".join(sorted(FLOAT_DTYPES))
    return [
        f"{tensor.name}: dtype {tensor.dtype} in {file.path.name}; must be {allowed}"
        for tensor in file.tensors
        if tensor.dtype not in FLOAT_DTYPES
    ]


def misfits(files: list[WeightFile], config: dict[str, Any]) -> list[str]:
    """List tensors that are missing, have no place in the architecture, or a wrong shape."""
    model = build(config)
    found, wanted = needed_shapes(model, files), shapes(model.parameters())
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


def needed_shapes(model: nn.Module, files: list[WeightFile]) -> dict[str, tuple[int, ...]]:
    """Return names and shapes as the architecture takes them; no number is read.

    Raises:
        ModelError: when the architecture misses tensors before they can be compared.
    """
    sanitize = getattr(model, "sanitize", dict)
    zeros = {tensor.name: mx.zeros(tensor.shape) for file in files for tensor in file.tensors}
    try:
        return shapes(sanitize(zeros))
    except Exception as error:  # each architecture rearranges its tensors in its own way
        raise ModelError(
            f"{files[0].path.parent}: its tensors are not those of config.json ({error!r}).\n"
            "Fetch or save the model again, with the config.json it was trained with."
        ) from error


def not_finite(weights: dict[str, mx.array]) -> list[str]:
    """List the tensors with NaN or infinity; one tensor is in memory at a time."""
    problems = []
    for name in sorted(weights):
        value = weights.pop(name)
        if mx.issubdtype(value.dtype, mx.floating) and not bool(mx.all(mx.isfinite(value))):
            count = int(mx.sum(~mx.isfinite(value)))
            problems.append(f"{name}: {count} of {value.size} numbers are not finite")
        weights[name] = mx.array(0)
    return problems
