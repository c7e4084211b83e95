"""Files outside the repository: found, fingerprinted, and checked when a stage reads them.

They are no DVC dependencies. The `params` stage writes their sizes and hashes into the `inputs:`
section of params.yaml, which `prepare` and `weights` track.
"""

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.errors import ConfigError, DataError, ModelError, PipelineError, report_problems
from pipeline.external.download import DownloadError, download
from pipeline.external.stdlib import stdlib_fingerprint, stdlib_root
from pipeline.files import ROOT, cached_sha256_file

SCRATCH = "scratch"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
REMEDY = "Run `python -m stages.params` (or `make repro`) to take the files as they are now."


def external(path: str) -> Path:
    """Find a path that the user gave, relative to the repository.

    `dvc exp run --temp` works in a copy of the repository; `DVC_ROOT` names the real one.
    """
    return Path(os.environ.get("DVC_ROOT", ROOT)) / Path(path).expanduser()


def is_hub_id(source: str) -> bool:
    """Tell a hub id (`organisation/name`) from a folder, which may be missing."""
    parts = source.split("/")
    plain = len(parts) == 2 and all(parts) and parts[0] not in {".", "..", "~"}
    return source != SCRATCH and plain and not external(source).exists()


def model_folder(source: str) -> Path:
    """Find the folder of a model that exists.

    Raises:
        ModelError: when there is none.
    """
    folder = external(source)
    if not folder.is_dir():
        raise ModelError(
            f"model.source={source}: there is no such folder (looked at {folder}).\n"
            "Give a Hugging Face folder, `scratch` with model=tiny, "
            "or a hub id with model.allow_network=true."
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model.source={source}: the folder has no config.json.\n"
            "Give the folder that holds config.json, *.safetensors and tokenizer.json."
        )
    return folder


def data_files(path: str) -> list[Path]:
    """Find the JSONL files of `data.path`: the file itself, or those in the folder.

    Raises:
        DataError: when there are none.
    """
    found = external(path)
    if found.is_file():
        return [found]
    files = sorted(found.glob("*.jsonl")) if found.is_dir() else []
    if not files:
        what = "the folder has no *.jsonl" if found.is_dir() else "there is no such file or folder"
        raise DataError(
            f"data.path={path}: {what} (looked at {found}).\n"
            "Give a JSONL file, or a folder that holds some."
        )
    return files


def dataset_folder(data: DictConfig) -> Path:
    """Find the folder of `data.huggingface.name`; fetch it first when it is a hub id.

    Raises:
        ConfigError: when it is a hub id and `data.allow_network` is false.
        DataError: when there is no such folder, or the download fails.
    """
    name, revision = data.huggingface.name, data.huggingface.revision
    if external(name).is_dir():
        return external(name)
    if not is_hub_id(name):
        raise DataError(
            f"data.huggingface.name={name}: there is no such folder (looked at {external(name)}).\n"
            "Give a folder, or a hub id (organisation/name) with data.allow_network=true."
        )
    if not data.allow_network:
        raise ConfigError(
            f"data.huggingface.name={name}: there is no such folder, and a hub id is downloaded "
            "only when asked for.\nGive a folder, or add data.allow_network=true."
        )
    try:
        return download("dataset", name, revision, ["*"])
    except DownloadError as error:
        raise DataError(
            f"data.huggingface.name={name}: could not be fetched ({error}).\n"
            "Look at the id, data.huggingface.revision, and the network; HF_ENDPOINT names "
            "another hub."
        ) from error


def data_root(data: DictConfig) -> Path | None:
    """Find the file or folder that `data.source` reads; None for the built-in world."""
    if data.source == "stdlib":
        return stdlib_root()
    if data.source == "huggingface":
        return dataset_folder(data)
    return None if data.path is None else external(data.path)


def dataset_files(folder: Path) -> list[Path]:
    """List the files of a data set; hidden ones, and programs, are no part of it."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and file.suffix != ".py"
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def fingerprint(files: list[Path], base: Path) -> dict[str, Any]:
    """Give size and hash of each file, by its name relative to `base`."""
    return {
        os.path.relpath(file, base): {
            "size": file.stat().st_size,
            "sha256": cached_sha256_file(file),
        }
        for file in files
    }


def data_fingerprint(config: DictConfig) -> dict[str, Any]:
    """Fingerprint the files that `data.source` reads."""
    if config.data.source == "stdlib":
        return stdlib_fingerprint(stdlib_root())
    if config.data.source == "huggingface":
        folder = dataset_folder(config.data)
        return fingerprint(dataset_files(folder), folder)
    if config.data.source != "jsonl":
        return {}
    files = data_files(config.data.path)
    return fingerprint(files, files[0].parent)


def tokenizer_fingerprint(config: DictConfig) -> dict[str, Any]:
    """Fingerprint what `prepare` takes from `model.source`: its tokenizer and config.json."""
    if not names_folder(config.model.source):
        return {}
    folder = model_folder(config.model.source)
    files = [folder / name for name in ("config.json", *TOKENIZER_FILES)]
    return fingerprint([file for file in files if file.is_file()], folder)


def model_fingerprint(config: DictConfig) -> dict[str, Any]:
    """Fingerprint what `weights` takes from `model.source`."""
    if not names_folder(config.model.source):
        return {}
    folder = model_folder(config.model.source)
    return fingerprint(weight_files(folder), folder)


def names_folder(source: str) -> bool:
    """Tell a folder from `scratch` and from a hub id, whose revision is its fingerprint."""
    return source != SCRATCH and not is_hub_id(source)


PARTS = {"data": data_fingerprint, "tokenizer": tokenizer_fingerprint, "model": model_fingerprint}


def fingerprints(config: DictConfig) -> dict[str, Any]:
    """Fingerprint all that `data.path` and `model.source` name, as params.yaml has it."""
    return {part: measure(config) for part, measure in PARTS.items()}


def weight_files(folder: Path) -> list[Path]:
    """List the files of a model folder that decide what its weights are."""
    names = ["config.json", "generation_config.json", "model.safetensors.index.json"]
    listed = [folder / name for name in names if (folder / name).is_file()]
    return listed + sorted(file for file in folder.glob("*.safetensors") if file.is_file())


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
    """Say which files differ between two fingerprints."""
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
