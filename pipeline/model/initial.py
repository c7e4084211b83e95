"""The start of a run from weights that were trained before, where both train the same tensors."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pipeline.device import mx, nn
from pipeline.errors import ConfigError, report_problems
from pipeline.external.initial import SETTINGS, WEIGHTS
from pipeline.external.json_files import Remedy, read_foreign
from pipeline.external.shapes import NUMBER, TEXT, Maybe, whole
from pipeline.model.network.tree import put_arrays, trainable_arrays
from pipeline.model.source.folder import read_header

MOST_NAMES = 4
SHAPE = {
    "fine_tune_type": TEXT,
    "lora_parameters": Maybe({"rank": whole(1, 1 << 20), "scale": NUMBER}),
}
"""What is read of the settings; mlx-lm writes more."""
REMEDY = Remedy(ConfigError, "Give another folder as train.init_from, or null.")


def start_from(folder: Path, model: nn.Module, config: dict[str, Any]) -> None:
    """Give a model the trained weights in a folder, in the types that its own have.

    Args:
        folder: of the weights and their settings, as this project or mlx-lm writes them.
        model: trainable as it will be trained.
        config: its `adapter_config.json`.

    Raises:
        ConfigError: when a file is damaged, or with all in which they differ from what this run
            trains.
    """
    theirs = read_foreign(folder / SETTINGS, SHAPE, REMEDY)
    read_header(folder / WEIGHTS, REMEDY)
    weights, own = mx.load(str(folder / WEIGHTS)), trainable_arrays(model)
    assert isinstance(weights, dict)
    report_problems(
        ConfigError,
        f"train.init_from={folder}: what was trained there is not what this run trains:",
        [*differing_settings(theirs, config), *differing_tensors(weights, own)],
        "Set these keys as they were there, or train.init_from=null.",
    )
    put_arrays(model, {name: weights[name].astype(own[name].dtype) for name in own})
    mx.eval(model.trainable_parameters())


def differing_settings(theirs: dict[str, Any], own: dict[str, Any]) -> Iterator[str]:
    """Describe settings that change what the same numbers mean."""
    there, here = (each.get("lora_parameters") or {} for each in (theirs, own))
    pairs = {
        "train.mode": (theirs["fine_tune_type"], own["fine_tune_type"]),
        "lora.rank": (there.get("rank"), here.get("rank")),
        "the scale of the update (lora.alpha, lora.rank, lora.rslora)": (
            there.get("scale"),
            here.get("scale"),
        ),
    }
    for key, (before, now) in pairs.items():
        if before != now and None not in (before, now):
            yield f"{key}: {before} there, {now} here"


def differing_tensors(weights: dict[str, mx.array], own: dict[str, mx.array]) -> Iterator[str]:
    """Describe tensors that only one of both trains, and those of another shape or type."""
    for only, where in ((weights.keys() - own, "there"), (own.keys() - weights, "here")):
        if only:
            yield f"trained only {where} (lora.targets, lora.num_layers, train.mode): {some(only)}"
    both = sorted(weights.keys() & own.keys())
    misfits = [name for name in both if weights[name].shape != own[name].shape]
    if misfits:
        name = misfits[0]
        shapes = f"{name} {weights[name].shape} there, {own[name].shape} here"
        yield f"shapes of {len(misfits)} tensors (lora.rank, or another base): {shapes}"
    wrong = [name for name in both if not mx.issubdtype(weights[name].dtype, mx.floating)]
    if wrong:
        yield f"no kind of float: {some(wrong)}"


def some(names: Collection[str]) -> str:
    """Name a few of some tensors, and count the rest."""
    first, more = sorted(names)[:MOST_NAMES], len(names) - MOST_NAMES
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")
