"""`train.init_from`: where the trained weights lie that a run starts from."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from pipeline.errors import ConfigError
from pipeline.external.paths import external, fingerprint
from pipeline.files import sha256_bytes

SETTINGS, WEIGHTS = "adapter_config.json", "adapters.safetensors"
TRAINED = "models/trained"
"""Where a run has them."""
OWN_OUTPUTS = (TRAINED, "models/export")
"""What the graph writes after it has read them."""


def initial_folder(init_from: str) -> Path:
    """Find the folder of trained weights: the one that is named, or that in the run named.

    Raises:
        ConfigError: when neither has them.
    """
    places = external(init_from), external(init_from) / TRAINED
    for folder in places:
        if all((folder / name).is_file() for name in (SETTINGS, WEIGHTS)):
            return folder
    raise ConfigError(
        f"train.init_from={init_from}: there are no trained weights (looked for {SETTINGS} and "
        f"{WEIGHTS} in {places[0]} and in {places[1]}).\n"
        "Give the folder of an adapter, the folder of a run of the train stage, or null."
    )


def initial_hash(init_from: str) -> str:
    """Return a hash of the trained weights and their settings, wherever they lie."""
    facts = files_of(initial_folder(init_from))
    return f"sha256:{sha256_bytes(json.dumps(facts, sort_keys=True).encode())[:16]}"


def files_of(folder: Path) -> dict[str, Any]:
    """Fingerprint the files of trained weights."""
    return fingerprint([folder / name for name in (SETTINGS, WEIGHTS)], folder)


def initial_fingerprint(config: DictConfig) -> dict[str, Any]:
    """Fingerprint what `train.init_from` names, for a run of the graph.

    Raises:
        ConfigError: when it is an output of the graph itself.
    """
    init_from = config.train.init_from
    if init_from is None:
        return {}
    folder = initial_folder(init_from)
    outputs = [external(name).resolve() for name in OWN_OUTPUTS]
    if any(folder.resolve().is_relative_to(output) for output in outputs):
        raise ConfigError(
            f"train.init_from={init_from}: DVC deletes or rewrites this folder when it trains.\n"
            "Copy it to another place, and name that; `python -m stages.train` by hand takes it "
            "as it is."
        )
    return files_of(folder)
