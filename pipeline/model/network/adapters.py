"""What is trained: adapters on chosen layers, the head, named tensors, or every weight.

Saved in mlx-lm's own format (`adapters.safetensors`, `adapter_config.json`), so that
`mlx_lm.generate --adapter-path` and others can use it unchanged.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.device import mx, nn
from pipeline.errors import ConfigError, ModelError, report_problems
from pipeline.external.json_files import Remedy, read_own
from pipeline.external.shapes import FLAG, NUMBER, TEXT, Kind, Maybe, whole
from pipeline.files import write_json
from pipeline.model.network import upstream
from pipeline.model.network.head import give_own_head, head_tensors
from pipeline.model.network.targets import (
    chosen_layers,
    chosen_tensors,
    layer_names,
    refuse_for_dora,
)
from pipeline.model.network.tree import (
    adapted_layers,
    blocks,
    named_arrays,
    put_arrays,
    quantized_layers,
    unfreeze,
)
from pipeline.model.source.folder import read_header

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"
CONFIG_SHAPE = {
    "fine_tune_type": Kind("lora, dora or full", lambda value: value in ("lora", "dora", "full")),
    "num_layers": whole(-1, 10_000),  # to mlx-lm, all are -1
    "lora_parameters": Maybe(
        {"rank": whole(1, 1 << 20), "scale": NUMBER, "dropout": NUMBER, "keys": [TEXT]}
    ),
    "own_head": Maybe(FLAG),
    "tensors": Maybe([TEXT]),
}
RETRAIN = Remedy(ModelError, "Train again: `dvc repro --force train`.")
ADAPTER_TENSORS = ("lora_a", "lora_b", "m")
"""The low-rank factors, and the magnitudes of DoRA."""


@dataclass(frozen=True)
class AdapterSettings:
    """What `train.mode`, the `lora` section and `train.tensors` say."""

    mode: str
    rank: int
    alpha: float
    dropout: float
    num_layers: int | None
    targets: tuple[str, ...]
    rslora: bool = False
    tensors: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        """The factor of the low-rank product: alpha / rank (arXiv 2106.09685 §4.1).

        With rsLoRA alpha / sqrt(rank), so that what is learnt does not shrink as the rank grows
        (arXiv 2312.03732).
        """
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def trains_matrices(self) -> bool:
        """Whether weights of the base themselves are trained, not adapters."""
        return self.mode not in {"lora", "dora"}


def apply(model: nn.Module, settings: AdapterSettings, seed: int) -> dict[str, Any]:
    """Make the model trainable as settings say, with new weights; give its `adapter_config.json`.

    Raises:
        ConfigError: when a target or a mode does not fit the model.
        ModelError: when a weight has a row that DoRA cannot divide by.
    """
    mx.random.seed(seed)
    config = attach(model, settings)
    mx.eval(model.parameters())
    refuse_empty_rows(model)
    return config


def attach(model: nn.Module, settings: AdapterSettings) -> dict[str, Any]:
    """Make the model trainable as settings say; nothing is computed yet.

    Everything is frozen first. LoRA starts as the base: `lora_b` is zero.

    Returns:
        Its `adapter_config.json`.

    Raises:
        ConfigError: when a target or a mode does not fit the model.
    """
    model.freeze()
    return MODES[settings.mode](model, settings)


def attach_low_rank(model: nn.Module, settings: AdapterSettings) -> dict[str, Any]:
    """Add LoRA or DoRA to the layers that the targets name."""
    layers = blocks(model)
    num_layers = len(layers) if settings.num_layers is None else settings.num_layers
    if num_layers > len(layers):
        raise ConfigError(
            f"lora.num_layers={num_layers}: the model has {len(layers)} blocks.\n"
            "Give that many at most, or null for all of them."
        )
    keys = chosen_layers(*layer_names(model, num_layers), settings.targets)
    if settings.mode == "dora":
        refuse_for_dora(model, num_layers, keys)
    parameters = {
        "rank": settings.rank,
        "scale": settings.scale,
        "dropout": settings.dropout,
        "keys": keys,
    }
    config = {
        "fine_tune_type": settings.mode,
        "num_layers": num_layers,
        "lora_parameters": parameters,
    }
    add_adapters(model, config)
    return config


def attach_everything(model: nn.Module, settings: AdapterSettings) -> dict[str, Any]:
    """Train every weight."""
    del settings
    if quantized_layers(model):
        raise ConfigError("train.mode=full: the base is quantised. Use train.mode=lora.")
    model.unfreeze()
    return {"fine_tune_type": "full", "num_layers": len(blocks(model))}


def attach_tensors(model: nn.Module, settings: AdapterSettings) -> dict[str, Any]:
    """Train the tensors that `train.tensors` names."""
    names = chosen_tensors(model, settings.tensors)
    unfreeze(model, names)
    return {"fine_tune_type": "full", "num_layers": len(blocks(model)), "tensors": names}


def attach_head(model: nn.Module, settings: AdapterSettings) -> dict[str, Any]:
    """Train the final norm and the output head.

    Nothing before them is trainable, so the gradient ends there and no block is differentiated.
    """
    del settings
    own_head = give_own_head(model)
    names = head_tensors(model)
    unfreeze(model, names)
    config = {"fine_tune_type": "full", "num_layers": len(blocks(model)), "tensors": names}
    return config | ({"own_head": True} if own_head else {})


MODES: dict[str, Callable[[nn.Module, AdapterSettings], dict[str, Any]]] = {
    "lora": attach_low_rank,
    "dora": attach_low_rank,
    "head": attach_head,
    "full": attach_everything,
    "tensors": attach_tensors,
}


def add_adapters(model: nn.Module, config: dict[str, Any]) -> None:
    """Put new adapters onto the layers that a configuration names, by mlx-lm's code."""
    upstream.linear_to_lora_layers(
        model,
        config["num_layers"],
        config["lora_parameters"],
        use_dora=config["fine_tune_type"] == "dora",
    )


def refuse_empty_rows(model: nn.Module) -> None:
    """Refuse DoRA where a row of a weight is zero: it divides by the norm of each row.

    Raises:
        ModelError: with the layers.
    """
    problems = [
        f"{name}: {count} of {layer['m'].size} rows"
        for name, layer in adapted_layers(model)
        if "m" in layer and (count := int(mx.sum(layer["m"] == 0)))
    ]
    headline = "train.mode=dora: rows of these weights are zero, and DoRA divides by their norm:"
    report_problems(ModelError, headline, problems, "Leave them out of lora.targets, or use lora.")


def save_adapter(folder: Path, weights: dict[str, mx.array], config: dict[str, Any]) -> None:
    """Write trained weights in mlx-lm's format; equal weights give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / WEIGHTS), dict(sorted(weights.items())))
    write_json(folder / CONFIG, config)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read the `adapter_config.json` that goes with trained weights.

    Raises:
        ModelError: when it is not what the train stage wrote.
    """
    return read_own(folder / CONFIG, CONFIG_SHAPE, RETRAIN)


def read_adapter_weights(folder: Path) -> dict[str, mx.array]:
    """Read trained weights; they are in memory when their values are first needed.

    Raises:
        ModelError: when the file is missing, cut short or damaged.
    """
    path = folder / WEIGHTS
    read_header(path, RETRAIN)
    weights = mx.load(str(path))
    assert isinstance(weights, dict)
    return weights


def load_adapter(model: nn.Module, folder: Path) -> dict[str, Any]:
    """Put trained weights onto a base model; nothing is computed yet.

    Returns:
        Their `adapter_config.json`.

    Raises:
        ModelError: when the files are damaged, or with every tensor that does not fit.
    """
    config = read_adapter_config(folder)
    weights = read_adapter_weights(folder)
    if "lora_parameters" in config:
        add_adapters(model, config)
    if config.get("own_head"):
        give_own_head(model)
    expected = expected_shapes(model, config)
    problems = [f"{name}: missing" for name in sorted(expected.keys() - weights.keys())]
    problems += [f"{name}: unexpected" for name in sorted(weights.keys() - expected.keys())]
    problems += [
        f"{name}: file {weights[name].shape}, model {expected[name]}"
        for name in sorted(weights.keys() & expected.keys())
        if weights[name].shape != expected[name]
    ]
    problems += [
        f"{name}: has type {value.dtype}; must be a kind of float"
        for name, value in sorted(weights.items())
        if not mx.issubdtype(value.dtype, mx.floating)
    ]
    headline = f"{folder / WEIGHTS} does not fit the base model:"
    report_problems(ModelError, headline, problems, "Train again on this base: `dvc repro train`.")
    put_arrays(model, weights)
    return config


def make_trainable(model: nn.Module, config: dict[str, Any]) -> None:
    """Unfreeze what a loaded adapter has trained, and nothing else."""
    model.freeze()
    unfreeze(model, expected_shapes(model, config))


def expected_shapes(model: nn.Module, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """List the tensors that an adapter of this configuration must hold.

    A tensor that the configuration names and the model lacks has no shape: `()`.
    """
    arrays = named_arrays(model.parameters())
    names = config.get("tensors", list(arrays))
    if config["fine_tune_type"] != "full":
        names = [
            f"{name}.{leaf}"
            for name, layer in adapted_layers(model)
            for leaf in ADAPTER_TENSORS
            if leaf in layer
        ]
    return {name: arrays[name].shape if name in arrays else () for name in names}
