"""What is trained: low-rank adapters on chosen linear layers, or every weight.

Saved in mlx-lm's own format (`adapters.safetensors`, `adapter_config.json`), so that
`mlx_lm.generate --adapter-path` and the others can use it as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.device import mx, nn, tree_unflatten
from pipeline.errors import ConfigError, ModelError, report_problems
from pipeline.files import read_json, write_json
from pipeline.model import upstream
from pipeline.model.tree import blocks, quantized_layers, shapes

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"
LINEAR = (nn.Linear, nn.QuantizedLinear, upstream.SwitchLinear, upstream.QuantizedSwitchLinear)
ADAPTER_TENSORS = ("lora_a", "lora_b")


@dataclass(frozen=True)
class AdapterSettings:
    """What `train.mode` and the `lora` section say."""

    mode: str
    rank: int
    alpha: float
    dropout: float
    num_layers: int | None
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        """The factor of the low-rank product: alpha / rank (arXiv 2106.09685 §4.1)."""
        return self.alpha / self.rank


def linear_layers(block: nn.Module) -> list[str]:
    """List the linear layers of a block by their names inside it."""
    return sorted(name for name, module in block.named_modules() if isinstance(module, LINEAR))


def chosen_layers(names: list[str], targets: tuple[str, ...]) -> list[str]:
    """Pick the layers whose last name, or whole name, a target names or matches.

    Raises:
        ConfigError: when a target matches nothing, with the names there are.
    """
    matches = {
        target: [
            name
            for name in names
            if fnmatchcase(name, target) or fnmatchcase(name.rsplit(".", 1)[-1], target)
        ]
        for target in targets
    }
    problems = [f"{target}: matches no linear layer" for target in targets if not matches[target]]
    remedy = f"The layers of a block are: {', '.join(names)}"
    report_problems(ConfigError, f"lora.targets={list(targets)}:", problems, remedy)
    return sorted({name for found in matches.values() for name in found})


def apply(model: nn.Module, settings: AdapterSettings, seed: int) -> dict[str, Any]:
    """Make the model trainable as settings say, with new weights; give its `adapter_config.json`.

    Raises:
        ConfigError: when a target matches nothing, or there are fewer blocks than asked for.
    """
    mx.random.seed(seed)
    config = attach(model, settings)
    mx.eval(model.parameters())
    return config


def attach(model: nn.Module, settings: AdapterSettings) -> dict[str, Any]:
    """Make the model trainable as settings say; nothing is computed yet.

    Everything is frozen first. LoRA starts as the base: `lora_b` is zero.

    Returns:
        Its `adapter_config.json`.

    Raises:
        ConfigError: when a target matches nothing, or there are fewer blocks than asked for.
    """
    model.freeze()
    layers = blocks(model)
    if settings.mode == "full":
        refuse_quantized(model)
        model.unfreeze()
        return {"fine_tune_type": "full", "num_layers": len(layers)}
    num_layers = len(layers) if settings.num_layers is None else settings.num_layers
    if num_layers > len(layers):
        raise ConfigError(
            f"lora.num_layers={num_layers}: the model has {len(layers)} blocks.\n"
            "Give that many at most, or null for all of them."
        )
    names = sorted({name for block in layers[-num_layers:] for name in linear_layers(block)})
    parameters = {
        "rank": settings.rank,
        "scale": settings.scale,
        "dropout": settings.dropout,
        "keys": chosen_layers(names, settings.targets),
    }
    upstream.linear_to_lora_layers(model, num_layers, parameters)
    return {"fine_tune_type": "lora", "num_layers": num_layers, "lora_parameters": parameters}


def refuse_quantized(model: nn.Module) -> None:
    """Refuse to train weights that are packed into integers.

    Raises:
        ConfigError: with the modes that can.
    """
    if quantized_layers(model):
        raise ConfigError("train.mode=full: the base is quantised. Use train.mode=lora.")


def save_adapter(folder: Path, weights: dict[str, mx.array], config: dict[str, Any]) -> None:
    """Write trained weights in mlx-lm's format; equal weights give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / WEIGHTS), dict(sorted(weights.items())))
    write_json(folder / CONFIG, config)


def load_adapter(model: nn.Module, folder: Path) -> dict[str, Any]:
    """Put trained weights onto a base model; give their `adapter_config.json`.

    Raises:
        ModelError: with every tensor that does not fit.
    """
    config = read_json(folder / CONFIG)
    if config["fine_tune_type"] == "lora":
        upstream.linear_to_lora_layers(model, config["num_layers"], config["lora_parameters"])
    weights = mx.load(str(folder / WEIGHTS))
    assert isinstance(weights, dict)
    expected = expected_shapes(model, config["fine_tune_type"])
    problems = [f"{name}: missing" for name in sorted(expected.keys() - weights.keys())]
    problems += [f"{name}: unexpected" for name in sorted(weights.keys() - expected.keys())]
    problems += [
        f"{name}: file {weights[name].shape}, model {expected[name]}"
        for name in sorted(weights.keys() & expected.keys())
        if weights[name].shape != expected[name]
    ]
    headline = f"{folder / WEIGHTS} does not fit the base model:"
    report_problems(ModelError, headline, problems, "Train again on this base: `dvc repro train`.")
    model.update(tree_unflatten(list(weights.items())))
    mx.eval(model.parameters())
    return config


def make_trainable(model: nn.Module, mode: str) -> None:
    """Unfreeze what a mode trains: the adapters that are there, or everything."""
    model.freeze()
    if mode == "full":
        model.unfreeze()
        return
    for _, layer in adapted_layers(model):
        layer.unfreeze(keys=list(ADAPTER_TENSORS), recurse=False)


def expected_shapes(model: nn.Module, fine_tune_type: str) -> dict[str, tuple[int, ...]]:
    """List the tensors that an adapter of this type must hold."""
    whole = shapes(model.parameters())
    if fine_tune_type == "full":
        return whole
    return {name: shape for name, shape in whole.items() if name.endswith(ADAPTER_TENSORS)}


def fuse(model: nn.Module) -> None:
    """Fold every adapter into its weight, in float32, in place.

    W' = W + scale · (A B)ᵀ (arXiv 2106.09685 §4.1). A quantised weight is dequantised first:
    requantising would round the adapter away.
    """
    fused = [(name, fused_layer(module)) for name, module in adapted_layers(model)]
    model.update_modules(tree_unflatten(fused))
    mx.eval(model.parameters())


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """List the layers that carry an adapter."""
    for name, module in model.named_modules():
        if "lora_a" in module:
            yield name, module


def fused_layer(layer: Any) -> nn.Module:  # noqa: ANN401
    """Give the plain layer that does what a layer and its adapter do together."""
    layer.linear.set_dtype(mx.float32)  # scales too, hence what a weight unpacks to
    upstream.dequantize_model(layer)
    layer.linear.set_dtype(mx.float32)  # some kinds of quantisation unpack to bfloat16
    return layer.fuse()
