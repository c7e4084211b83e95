"""Paths and hub ids that a user gives, and the fingerprint of files."""

import os
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, report_problems
from pipeline.files import ROOT, cached_sha256_file

SCRATCH = "scratch"
INDEX = "model.safetensors.index.json"
"""Which file each tensor of a model is in."""
RENAME = "Rename them; a name is written into files, which are UTF-8."


def external(path: str) -> Path:
    """Return a path that the user gave, relative to the repository.

    `dvc exp run --temp` works in a copy of the repository; `DVC_ROOT` names the real one.

    Raises:
        ConfigError: when its name, or that of what it links to, is no UTF-8.
    """
    found = Path(os.environ.get("DVC_ROOT", ROOT)) / Path(path).expanduser()
    problems = [name for name in sorted({str(found), str(found.resolve())}) if not is_utf8(name)]
    report_problems(ConfigError, "These names are no UTF-8:", problems, RENAME)
    return found


def is_utf8(name: str) -> bool:
    """Whether a name of the file system can be written into a text."""
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


def inside(path: Path, folder: Path) -> bool:
    """Whether a path, links followed, stays in its folder.

    In a hub cache the files of a snapshot are links to `blobs/`, two levels up: that counts too.
    """
    real, home = path.resolve(), folder.resolve()
    cache = home.parent.parent
    in_hub_cache = home.parent.name == "snapshots" and cache / "blobs" in real.parents
    return home in real.parents or in_hub_cache


def place_problem(path: Path, folder: Path) -> str | None:
    """Describe why a file is not taken from a model folder; None where it is a file in it."""
    if not is_utf8(path.name):
        return f"{path.name}: its name is no UTF-8"
    if not inside(path, folder):
        return f"{path.name}: leads out of the folder, to {path.resolve()}"
    if path.is_file():
        return None
    return f"{path.name}: {'is a folder or a device' if path.exists() else 'is missing'}"


def is_gguf(source: str) -> bool:
    """Whether a source is named as a GGUF file is."""
    return source.lower().endswith(".gguf")


def is_hub_id(source: str) -> bool:
    """Whether a source is a hub id (`organisation/name`) and no folder of that name exists."""
    parts = source.split("/")
    plain = len(parts) == 2 and all(parts) and parts[0] not in {".", "..", "~"}
    return source != SCRATCH and plain and not is_gguf(source) and not external(source).exists()


def fingerprint(files: list[Path], base: Path) -> dict[str, Any]:
    """Return size in bytes and SHA-256 of each file, by its name relative to `base`."""
    return {
        os.path.relpath(file, base): {
            "size": file.stat().st_size,
            "sha256": cached_sha256_file(file),
        }
        for file in files
    }
