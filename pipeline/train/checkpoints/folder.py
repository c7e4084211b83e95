"""Checkpoints: each is either complete or not visible.

To commit one: write into `.tmp-…`, fsync each file, write a sealed manifest with the hashes, fsync
it, rename the folder to `step-NNNNNNNN`, fsync the parent. A reader takes the newest folder whose
manifest verifies, and warns of each one that it skips. Older checkpoints are deleted only after the
new one is on the disk. They are renamed first, durably, so a folder with a final name is complete.
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipeline.device import mx
from pipeline.errors import CheckpointError
from pipeline.files import make_folder, read_json, sync_folder
from pipeline.train.checkpoints.manifest import ARRAYS, STATE, problem_of, write_parts

STEP_NAME = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,})")
DISK_MARGIN = 1.2
DISK_ERRORS = (OSError, RuntimeError, SafetensorError)  # MLX raises RuntimeError
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
    """The checkpoints of one run; only one process at a time may save into it."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Make the folder where it is not there yet.

        Raises:
            CheckpointError: when it cannot be made.
        """
        self.folder, self.keep = folder, keep
        self._saved: int | None = None
        self._damaged: set[int] = set()
        try:
            make_folder(folder)
        except OSError as error:
            raise CheckpointError(
                f"{folder}: cannot be made ({error}).\n"
                "Checkpoints need a folder that can be written; make room for it there."
            ) from error

    def save(self, checkpoint: Checkpoint, protect: int | None = None) -> Path:
        """Commit a checkpoint, then delete older ones but the newest `keep` and `protect`.

        Raises:
            CheckpointError: when it cannot be written; those that exist are untouched.
        """
        final = self.path(checkpoint.step)
        try:
            self.sweep()  # leftovers of a killed save take room that this one needs
            if final.exists() and not problem_of(final):
                sync_folder(self.folder)  # its save may have been killed before this sync
            else:
                self.require_space(checkpoint)
                with self.partial_folder(checkpoint.step) as partial:
                    write_parts(partial, checkpoint.step, checkpoint.arrays, checkpoint.state)
                    self.commit(partial, final)
        except DISK_ERRORS as error:
            with contextlib.suppress(OSError):
                self.sweep()
            raise CheckpointError(
                f"{final}: the checkpoint of step {checkpoint.step} was not written ({error}).\n"
                f"Those before it are untouched. See that {self.folder} is there, can be written "
                "and has room, and start again: training goes on from the newest."
            ) from error
        self._saved = checkpoint.step
        self._damaged.discard(checkpoint.step)
        self.prune(protect)
        return final

    def path(self, step: int) -> Path:
        """Name the folder of a step."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """List the steps that have been committed, oldest first.

        Raises:
            CheckpointError: when the folder cannot be read.
        """
        try:
            names = [path.name for path in self.folder.iterdir()]  # `glob` would hide the error
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: cannot be read ({error}).\nBring it back, and start again."
            ) from error
        return sorted(int(found[1]) for name in names if (found := STEP_NAME.fullmatch(name)))

    def newest(self) -> Checkpoint | None:
        """Load the newest checkpoint that verifies; pass over damaged ones with a warning.

        Raises:
            CheckpointError: when there are some and none verifies.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.load(step)
            except CheckpointError as error:
                self._damaged.add(step)
                log.warning(
                    "%s is damaged; going back to the one before. %s", self.path(step), error
                )
        if steps:
            raise CheckpointError(
                f"{self.folder}: all {len(steps)} checkpoints are damaged, the newest of step "
                f"{steps[-1]}.\nDelete the folder to start this run afresh."
            )
        return None

    def load(self, step: int, prefix: str = "") -> Checkpoint:
        """Load one checkpoint into memory.

        Args:
            step: of the checkpoint.
            prefix: of the names of the arrays that are loaded; empty: all are.

        Raises:
            CheckpointError: when it does not verify.
        """
        path = self.path(step)
        problem = problem_of(path)
        try:
            if not problem:
                found = mx.load(str(path / ARRAYS))
                assert isinstance(found, dict)
                arrays = {name: found[name] for name in found if name.startswith(prefix)}
                mx.eval(arrays)  # lazy arrays would read whatever the file holds later
                return Checkpoint(step, arrays, read_json(path / STATE))
        except DISK_ERRORS as error:
            problem = str(error)
        raise CheckpointError(
            f"{path}: is missing or damaged ({problem}).\n"
            f"Delete {self.folder} to start this run afresh."
        )

    def prune(self, protect: int | None) -> None:
        """Delete what later checkpoints have made superfluous; warn where that fails.

        Those that `newest` found damaged go too, and do not count among those to keep.
        """
        try:
            steps = self.steps()
            whole = [step for step in steps if step not in self._damaged]
            kept = {*whole[-self.keep :], self._saved, protect}
            for step in steps:
                if step not in kept:
                    self.set_aside(self.path(step))
            self.sweep()
        except (OSError, CheckpointError) as error:
            log.warning("%s: superfluous checkpoints stay (%s)", self.folder, error)

    def clear(self) -> None:
        """Delete all checkpoints, the newest one last, so that no older one is resumed from.

        Raises:
            OSError: when the folder cannot be written.
        """
        for step in self.steps():
            self.set_aside(self.path(step))
        self.sweep()

    def set_aside(self, path: Path) -> None:
        """Rename a checkpoint that is to be deleted, so that no part of it counts as one."""
        path.rename(self.folder / f".tmp-old-{path.name}-{secrets.token_hex(8)}")

    def sweep(self) -> None:
        """Delete what was set aside, and what a killed save left; warn of what cannot be deleted.

        Raises:
            OSError: when the folder cannot be read, or its names not be made durable.
        """
        strays = [path for path in self.folder.iterdir() if path.name.startswith(".tmp-")]
        if strays:
            sync_folder(self.folder)  # no name may come back after its files are gone
        for path in strays:
            try:
                shutil.rmtree(path)
            except OSError as error:
                log.warning("%s: is superfluous and cannot be deleted (%s)", path, error)

    @contextlib.contextmanager
    def partial_folder(self, step: int) -> Iterator[Path]:
        """Make a folder to write into, and delete it unless it was given another name."""
        partial = self.folder / f".tmp-{step:08d}-{os.getpid()}"
        try:
            partial.mkdir()
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def commit(self, partial: Path, final: Path) -> None:
        """Rename a finished folder to its final name; if that fails, leave none with that name."""
        if final.exists():  # but it did not verify
            self.set_aside(final)
        partial.rename(final)
        try:
            sync_folder(self.folder)
        except OSError:  # what is on the disk is unknown, and a second fsync would not show it
            with contextlib.suppress(OSError):
                self.set_aside(final)
            raise

    def require_space(self, checkpoint: Checkpoint) -> None:
        """Check that the disk has room for a checkpoint, in bytes.

        Raises:
            OSError: when it has not.
        """
        needed = int(DISK_MARGIN * sum(value.nbytes for value in checkpoint.arrays.values()))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(f"{needed} bytes are needed and {free} are free")
