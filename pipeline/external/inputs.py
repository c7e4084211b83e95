"""Files outside the repository: found, fingerprinted, and checked when a stage reads them.

They are no DVC dependencies. The `params` stage writes their sizes and hashes into the `inputs:`
section of params.yaml, which `prepare` and `weights` track.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.errors import ConfigError, ModelError, PipelineError, report_problems
from pipeline.external.initial import initial_fingerprint
from pipeline.external.paths import (
    INDEX,
    SCRATCH,
    external,
    fingerprint,
    is_gguf,
    is_hub_id,
    place_problem,
)
from pipeline.external.sources import data_fingerprint
from pipeline.external.tokenizer_files import TOKENIZER_FILES, tokenizer_names
from pipeline.files import sha256_path

SETTINGS = ("config.json", "generation_config.json", *TOKENIZER_FILES)
"""Small files of a model folder, which are copied."""
REMEDY = "Run `python -m stages.params` (or `make repro`) to take the files as they are now."


def model_folder(source: str) -> Path:
    """Find the folder of a model that exists; a GGUF file is converted into one first.

    Raises:
        ModelError: when there is none.
    """
    folder = external(source)
    if is_gguf(source):
        return converted_folder(folder)
    if not folder.is_dir():
        raise ModelError(
            f"model.source={source}: there is no such folder (looked at {folder}).\n"
            "Give a Hugging Face folder, a GGUF file, `scratch` with model=tiny, "
            "or a hub id with model.allow_network=true."
        )
    if not os.path.lexists(folder / "config.json"):
        raise ModelError(
            f"model.source={source}: the folder has no config.json.\n"
            "Give the folder that holds config.json, *.safetensors and tokenizer.json."
        )
    check_places(folder)
    return folder


def check_places(folder: Path) -> None:
    """Refuse a model folder whose small files lie elsewhere; weights are checked when read.

    Raises:
        ModelError: with each link that leads out of the folder or nowhere, and what is no file.
    """
    settings = "config.json", "generation_config.json", INDEX
    paths = [folder / name for name in (*settings, *tokenizer_names(folder))]
    there = [path for path in paths if os.path.lexists(path)]
    problems = [problem for path in there if (problem := place_problem(path, folder))]
    remedy = "Put the files themselves there; they are copied, and links are not followed."
    report_problems(ModelError, f"{folder}: these files cannot be used:", problems, remedy)


def converted_folder(file: Path) -> Path:
    """Return the folder that a GGUF file is converted into.

    Raises:
        ModelError: when there is no such file, or it cannot be converted.
    """
    from pipeline.external.gguf.convert import converted  # transformers: a second that few need

    return converted(require_gguf(file))


def require_gguf(file: Path) -> Path:
    """Return a GGUF file.

    Raises:
        ModelError: when there is none.
    """
    if not file.is_file():
        raise ModelError(
            f"model.source={file}: there is no such file.\n"
            "`make smollm2` fetches the one of model=smollm2; give the path of any other."
        )
    return file


def gguf_fingerprint(file: Path) -> dict[str, Any]:
    """Fingerprint a GGUF file, and the code that converts it."""
    code = {"sha256": sha256_path(Path(__file__).parent / "gguf")}
    return fingerprint([require_gguf(file)], file.parent) | {"converter": code}


def source_fingerprint(
    list_files: Callable[[Path], list[Path]],
) -> Callable[[DictConfig], dict[str, Any]]:
    """Make the fingerprint of the files of `model.source` that a function lists."""

    def measure(config: DictConfig) -> dict[str, Any]:
        source = config.model.source
        if not names_folder(source):
            return {}
        if is_gguf(source):
            return gguf_fingerprint(external(source))
        folder = model_folder(source)
        return fingerprint(list_files(folder), folder)

    return measure


def tokenizer_files(folder: Path) -> list[Path]:
    """List the files of a model folder that `prepare` reads: its tokenizer and config.json."""
    files = [folder / name for name in ("config.json", *tokenizer_names(folder))]
    return [file for file in files if file.is_file()]


def weight_files(folder: Path) -> list[Path]:
    """List the files of a model folder that decide what its weights are."""
    names = ["config.json", "generation_config.json", INDEX]
    listed = [folder / name for name in names if (folder / name).is_file()]
    return listed + sorted(file for file in folder.glob("*.safetensors") if file.is_file())


def names_folder(source: str) -> bool:
    """Whether a source is a folder or a file, not `scratch` or a hub id (fixed by its revision)."""
    return source != SCRATCH and not is_hub_id(source)


PARTS = {
    "data": data_fingerprint,
    "tokenizer": source_fingerprint(tokenizer_files),
    "model": source_fingerprint(weight_files),
    "init_from": initial_fingerprint,
}


def fingerprints(config: DictConfig) -> dict[str, Any]:
    """Fingerprint all files that the configuration names, as params.yaml has it."""
    return {part: measure(config) for part, measure in PARTS.items()}


def check_unchanged(config: DictConfig, *parts: str) -> None:
    """Refuse external files that are not those params.yaml was made from.

    By hand there is no `inputs:` section, so there is nothing to compare with.

    Raises:
        PipelineError: with every file that differs.
    """
    problems = []
    for part in parts:
        if config.inputs[part] is not None:
            then, now = OmegaConf.to_container(config.inputs[part]), PARTS[part](config)
            assert isinstance(then, dict)
            problems += differences(then, now)
    headline = "External files changed since params.yaml was written:"
    report_problems(PipelineError, headline, problems, REMEDY)


def differences(then: dict[Any, Any], now: dict[str, Any]) -> list[str]:
    """List the files that differ between two fingerprints."""
    words = {name: "is gone" for name in then if name not in now}
    words |= {name: "is new" for name in now if name not in then}
    words |= {name: "differs" for name in now if name in then and then[name] != now[name]}
    return [f"{name}: {words[name]}" for name in sorted(words)]


def require_network(source: str, allow_network: bool) -> None:
    """Refuse a hub id unless the user asked for the network.

    Raises:
        ConfigError: when `model.allow_network` is false.
    """
    if not allow_network:
        raise ConfigError(
            f"model.source={source}: there is no such folder, and a hub id is downloaded only when "
            "asked for.\nGive a folder, or add model.allow_network=true."
        )
