"""The files of a checkpoint: arrays, state, and a manifest by which both are verified.

The manifest has size and sha256 of each file, and name, type and shape of each tensor. Its seal
is a hash of its text, so that a changed bit in the manifest is noticed too.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.device import mx
from pipeline.files import json_text, sha256_bytes, sha256_file, sync_file, sync_folder, write_json

ARRAYS, STATE, MANIFEST = "arrays.safetensors", "state.json", "manifest.json"


def write_parts(
    folder: Path, step: int, arrays: dict[str, mx.array], state: dict[str, Any]
) -> None:
    """Write the files of a checkpoint, durable, with a manifest that describes them.

    Raises:
        OSError, RuntimeError, SafetensorError: when one is not on the disk as it should be.
    """
    mx.save_safetensors(str(folder / ARRAYS), dict(sorted(arrays.items())))
    sync_file(folder / ARRAYS)
    require_tensors(folder / ARRAYS, arrays)
    write_json(folder / STATE, state)
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in (ARRAYS, STATE)
    }
    tensors = {
        name: {"dtype": str(value.dtype), "shape": list(value.shape)}
        for name, value in sorted(arrays.items())
    }
    manifest = {"step": step, "files": files, "tensors": tensors}
    write_json(folder / MANIFEST, sealed(manifest))
    sync_folder(folder)


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """Add the hash of its text to a manifest."""
    return manifest | {"sha256": sha256_bytes(json_text(manifest).encode())}


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest, and check that it is what was written, to the byte.

    Raises:
        ValueError: when it is not.
    """
    raw = path.read_bytes()
    manifest = json.loads(raw)
    body = {name: value for name, value in manifest.items() if name != "sha256"}
    if raw != json_text(sealed(body)).encode():
        raise ValueError(f"{path.name} is not what was written")
    return manifest


def problem_of(path: Path) -> str:
    """Describe what is wrong with a committed folder; empty where its manifest holds."""
    try:
        manifest = read_manifest(path / MANIFEST)
        if path.name != f"step-{manifest['step']:08d}":
            return f"it holds step {manifest['step']}"
        for name, facts in manifest["files"].items():
            size = (path / name).stat().st_size
            if size != facts["size"]:
                return f"{name} has {size} bytes, not {facts['size']}"
            if sha256_file(path / name) != facts["sha256"]:
                return f"{name} is not what was written"
        require_tensors(path / ARRAYS, manifest["tensors"])
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        return str(error)
    return ""


def require_tensors(path: Path, names: Iterable[str]) -> None:
    """Check by an independent reader whether a file is whole.

    Raises:
        SafetensorError: when header and length of the file do not fit together.
        OSError: when it holds other tensors than those named.
    """
    with safe_open(path, framework="numpy") as file:
        if sorted(file.keys()) != sorted(names):
            raise OSError(f"{path.name} does not hold the tensors that it should")
