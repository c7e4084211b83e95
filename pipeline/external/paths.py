"""Paths and hub ids that a user gives, and the fingerprint of files."""

import os
from pathlib import Path
from typing import Any

from pipeline.files import ROOT, cached_sha256_file

SCRATCH = "scratch"


def external(path: str) -> Path:
    """Return a path that the user gave, relative to the repository.

    `dvc exp run --temp` works in a copy of the repository; `DVC_ROOT` names the real one.
    """
    return Path(os.environ.get("DVC_ROOT", ROOT)) / Path(path).expanduser()


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
