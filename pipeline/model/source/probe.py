"""Two tokens through a model of constant weights: whether its config.json can be computed at all.

Nothing is read from the files of weights, and no weight is stored: each is one number, repeated.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.device import mx, nn
from pipeline.errors import ModelError, PipelineError
from pipeline.model.network.build import build, stored_dtype
from pipeline.model.network.tree import named_arrays, put_arrays
from pipeline.model.source.facts import NESTED, SAVED, fact, language_part, with_facts
from pipeline.model.source.folder import WeightFile

VOCABULARY = 64
"""Tokens of the model that is tried: the head would be most of the work, and hides no fault."""
REMEDY = "Use the config.json that the model was saved with, of an architecture that mlx-lm has."
Failure = Callable[[dict[str, Any]], str | None]
"""Returns why something fails with a config.json; None where it does not."""
BLOCK_INDEX = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


def check_depth(folder: Path, config: dict[str, Any], files: Iterable[WeightFile]) -> None:
    """Refuse a config.json with more layers than the files hold, before any of them is built.

    Some architectures build one for each entry of `layer_types`.

    Raises:
        ModelError: with both numbers.
    """
    types, stated = fact(config, "layer_types") or (), fact(config, "num_hidden_layers")
    if stated is not None and len(types) > stated:
        raise ModelError(
            f"{folder / 'config.json'}: layer_types has {len(types):,} entries for "
            f"num_hidden_layers={stated}.\n{SAVED.text}"
        )
    names = (tensor.name for file in files for tensor in file.tensors)
    found = [int(index) for name in names for index in BLOCK_INDEX.findall(name)]
    if found and stated is not None and stated > max(found) + 1:
        raise ModelError(
            f"{folder / 'config.json'}: num_hidden_layers={stated}; the files hold tensors of "
            f"{max(found) + 1} layers.\n{SAVED.text}"
        )


def check_builds(folder: Path, config: dict[str, Any]) -> None:
    """Build the model; no array is computed, so that sizes of any kind cost nothing.

    Raises:
        ModelError: when it cannot be built, with the key that is the reason, as `check_computes`.
    """
    refuse_failure(folder, config, build_failure)


def check_computes(folder: Path, config: dict[str, Any]) -> None:
    """Compute the logits of two tokens.

    Raises:
        ModelError: when they cannot be computed, with the key that is the reason where the model
            computes without it.
    """
    refuse_failure(folder, config, failure)


def refuse_failure(folder: Path, config: dict[str, Any], fails: Failure) -> None:
    """Refuse a config.json with which something fails."""
    reason = fails(config)
    if reason is None:
        return
    keys = faulty_keys(config, fails)
    named = f"; without {' or '.join(keys)} it computes" if keys else ""
    raise ModelError(f"{folder / 'config.json'}: {reason}{named}.\n{REMEDY}")


def build_failure(config: dict[str, Any]) -> str | None:
    """Return why a model cannot be built; None where it can."""
    try:
        stored_dtype(config)
        build(config)
    except PipelineError as error:
        return str(error).split("\n")[0].removeprefix("config.json: ").removesuffix(".")
    return None


def failure(config: dict[str, Any]) -> str | None:
    """Return why two tokens cannot be computed; None where they can."""
    small = with_facts(config, vocab_size=VOCABULARY)
    if reason := build_failure(small):
        return reason
    model = build(small)
    make_constant(model)
    try:
        logits = model(mx.array([[0, 1]]))
        is_finite = bool(mx.all(mx.isfinite(logits)))
    except Exception as error:  # each architecture fails in its own way
        return f"two tokens cannot be computed ({error!r})"
    return None if is_finite else "two tokens are computed to numbers that are not finite"


def make_constant(model: nn.Module) -> None:
    """Replace every weight by one number; a matrix then takes the mean of its inputs."""
    constants = {
        name: mx.broadcast_to(mx.array(1 / value.shape[-1] if value.ndim > 1 else 1.0), value.shape)
        for name, value in named_arrays(model.parameters()).items()
        if mx.issubdtype(value.dtype, mx.floating)
    }
    put_arrays(model, constants)


def faulty_keys(config: dict[str, Any], fails: Failure) -> list[str]:
    """List the keys without which a config.json computes, tried on one layer of the model."""
    small = one_layer(config)
    if fails(small) is None:
        return []
    text = small.get(NESTED) or {}
    smaller = {
        **{key: without(small, key) for key in small},
        **{f"{NESTED}.{key}": {**small, NESTED: without(text, key)} for key in text},
    }
    values = small | {f"{NESTED}.{key}": value for key, value in text.items()}
    return [
        f"{key}={values[key]!r}"
        for key, changed in smaller.items()
        if not key.endswith("model_type") and key != NESTED and fails(changed) is None
    ]


def one_layer(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config.json of one layer: lists with an entry for each layer keep their first."""
    layers = fact(config, "num_hidden_layers")
    short = {
        name: value[:1] if isinstance(value, list) and len(value) == layers else value
        for name, value in language_part(config).items()
    } | ({"num_hidden_layers": 1} if layers else {})
    return {**config, NESTED: short} if config.get(NESTED) else short


def without(config: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a config.json that lacks a key."""
    return {name: value for name, value in config.items() if name != key}
