"""Checkpoints that are whole or invisible.

Commit protocol: write into `.tmp-…`, fsync each file, write a manifest with their hashes, fsync,
rename to `step-NNNNNNNN`, fsync the parent. A reader takes the newest folder whose manifest
verifies, and says so when it had to pass one over. Older ones go only after the new one is safe.
"""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.device import mx
from pipeline.errors import CheckpointError
from pipeline.files import read_json, sha256_file, sync_file, sync_folder, write_json

ARRAYS, STATE, MANIFEST = "arrays.safetensors", "state.json", "manifest.json"
DISK_MARGIN = 1.2
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint holds.

    Attributes:
        step: updates made when it was taken.
        arrays: trainable weights, optimizer state and random key, by name.
        state: everything else, as JSON.
    """

    step: int
    arrays: dict[str, mx.array]
    state: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.keep = folder, keep

    def save(self, checkpoint: Checkpoint, protect: int | None = None) -> Path:
        """Commit a checkpoint, then delete older ones but the newest `keep` and `protect`.

        Raises:
            CheckpointError: when it cannot be written; those that exist are untouched.
        """
        final = self.path(checkpoint.step)
        if final.exists() and verified(final):
            self.prune(protect)
            return final
        partial = self.folder / f".tmp-{checkpoint.step:08d}-{os.getpid()}"
        try:
            self.require_space(checkpoint)
            write_parts(checkpoint, partial)
            shutil.rmtree(final, ignore_errors=True)  # there only when it did not verify
            partial.rename(final)
            sync_folder(self.folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"{final}: the checkpoint of step {checkpoint.step} was not written ({error}).\n"
                "Free some disk and start again: training goes on from the one before."
            ) from error
        self.prune(protect)
        return final

    def path(self, step: int) -> Path:
        """Name the folder of a step."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """List the steps that have been committed, oldest first."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def newest(self) -> Checkpoint | None:
        """Load the newest checkpoint that verifies; pass over damaged ones with a warning."""
        for step in reversed(self.steps()):
            if verified(self.path(step)):
                return self.load(step)
            log.warning("%s is damaged; going back to the one before", self.path(step))
        return None

    def load(self, step: int) -> Checkpoint:
        """Load one checkpoint, wholly into memory.

        Raises:
            CheckpointError: when it does not verify.
        """
        path = self.path(step)
        if not verified(path):
            raise CheckpointError(
                f"{path}: is missing or damaged.\nDelete {self.folder} to start this run afresh."
            )
        arrays = mx.load(str(path / ARRAYS))
        assert isinstance(arrays, dict)
        mx.eval(arrays)  # lazy arrays would read whatever the file holds later
        return Checkpoint(step, arrays, read_json(path / STATE))

    def prune(self, protect: int | None) -> None:
        """Delete what a later checkpoint has made superfluous, and what a killed save left."""
        for step in self.steps()[: -self.keep]:
            if step != protect:
                shutil.rmtree(self.path(step))
        for partial in self.folder.glob(".tmp-*"):
            shutil.rmtree(partial)

    def require_space(self, checkpoint: Checkpoint) -> None:
        """Look at the disk before writing to it."""
        needed = int(DISK_MARGIN * sum(value.nbytes for value in checkpoint.arrays.values()))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(f"{needed} bytes are needed and {free} are free")


def write_parts(checkpoint: Checkpoint, partial: Path) -> None:
    """Write the files of a checkpoint, durable, with a manifest that describes them."""
    partial.mkdir()
    mx.save_safetensors(str(partial / ARRAYS), dict(sorted(checkpoint.arrays.items())))
    sync_file(partial / ARRAYS)
    write_json(partial / STATE, checkpoint.state)
    files = {
        name: {"size": (partial / name).stat().st_size, "sha256": sha256_file(partial / name)}
        for name in (ARRAYS, STATE)
    }
    tensors = {
        name: {"dtype": str(value.dtype), "shape": list(value.shape)}
        for name, value in sorted(checkpoint.arrays.items())
    }
    manifest = {"step": checkpoint.step, "files": files, "tensors": tensors}
    write_json(partial / MANIFEST, manifest)
    sync_folder(partial)


def verified(path: Path) -> bool:
    """Tell whether a committed folder is what its manifest says, and a readable safetensors."""
    try:
        manifest = read_json(path / MANIFEST)
        for name, facts in manifest["files"].items():
            if (path / name).stat().st_size != facts["size"]:
                return False
            if sha256_file(path / name) != facts["sha256"]:
                return False
        with safe_open(path / ARRAYS, framework="numpy") as file:
            return sorted(file.keys()) == sorted(manifest["tensors"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return False
