"""What a checkpoint holds: arrays, state, and a manifest that tells whether they are whole."""

import errno
from pathlib import Path

import numpy as np
import pytest

from pipeline.device import mx
from pipeline.errors import CheckpointError
from pipeline.train.checkpoints import manifest
from pipeline.train.checkpoints.manifest import ARRAYS, MANIFEST, STATE
from tests.support.saved import made, names


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        (ARRAYS, lambda raw: raw[:-8], r"arrays.safetensors has \d+ bytes, not \d+"),
        (ARRAYS, lambda raw: raw[:-1] + b"x", "arrays.safetensors is not what was written"),
        (STATE, lambda raw: raw.replace(b"2", b"3"), "state.json is not what was written"),
        (MANIFEST, lambda raw: raw.replace(b"step", b"Step"), "manifest.json is not what was writ"),
        (MANIFEST, lambda raw: raw[:-1], "manifest.json is not what was written"),
        (MANIFEST, lambda raw: b"[]", "no attribute 'items'"),
    ],
)
def test_a_damaged_checkpoint_says_what_is_wrong_with_it(folder, name, change, reason):
    path = folder.save(made(2)) / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(
        CheckpointError, match=rf"step-00000002: is missing or damaged \(.*{reason}"
    ):
        folder.load(2)


def test_what_is_loaded_is_not_changed_by_what_is_written_later(folder):
    path = folder.save(made(1)) / ARRAYS
    loaded = folder.newest()
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert np.array_equal(np.array(loaded.arrays["model/w"]), np.ones(64, np.float32))


@pytest.mark.parametrize("error", [RuntimeError("[write] Unable"), OSError(errno.EIO, "I/O error")])
def test_an_error_of_the_writer_is_ours(folder, monkeypatch, error):
    folder.save(made(1))

    def fail(*args):
        raise error

    monkeypatch.setattr(manifest.mx, "save_safetensors", fail)
    with pytest.raises(CheckpointError, match=r"step 2 was not written .*(Unable|I/O error)"):
        folder.save(made(2))
    assert names(folder) == ["step-00000001"]


def test_a_writer_that_says_nothing_of_what_it_left_out_is_found_out(folder, monkeypatch):
    real = mx.save_safetensors

    def write(path, arrays):
        real(path, arrays)
        Path(path).write_bytes(Path(path).read_bytes()[:-8])

    monkeypatch.setattr(manifest.mx, "save_safetensors", write)
    with pytest.raises(CheckpointError, match="step 2 was not written"):
        folder.save(made(2))
    monkeypatch.setattr(manifest.mx, "save_safetensors", lambda path, arrays: real(path, {}))
    with pytest.raises(CheckpointError, match="does not hold the tensors that it should"):
        folder.save(made(2))
    assert names(folder) == []
