"""Checkpoints are whole or invisible, whatever stops the writing."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.device import mx
from pipeline.errors import CheckpointError
from pipeline.train import checkpoint as module
from pipeline.train import manifest
from pipeline.train.checkpoint import Checkpoint, CheckpointFolder
from pipeline.train.manifest import ARRAYS, MANIFEST, STATE

ROOT = Path(__file__).resolve().parents[1]


def made(step, size=64):
    arrays = {"model/w": mx.full((size,), float(step)), "model/bits": mx.array([step, 7])}
    return Checkpoint(step, arrays, {"progress": {"step": step}, "note": "ä"})


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "run", keep=2)


def test_what_is_saved_comes_back_to_the_bit(folder):
    folder.save(made(3))
    found = folder.newest()
    assert found is not None
    assert (found.step, found.state) == (3, {"progress": {"step": 3}, "note": "ä"})
    assert found.arrays["model/bits"].tolist() == [3, 7]
    assert found.arrays["model/w"].dtype == mx.float32
    assert np.array_equal(np.array(found.arrays["model/w"]), np.full(64, 3, np.float32))


def test_the_newest_and_the_protected_are_kept(folder):
    for step in (1, 2, 3, 4, 5):
        folder.save(made(step), protect=2)
    assert folder.steps() == [2, 4, 5]


def test_an_empty_folder_has_none(folder):
    assert folder.newest() is None


@pytest.mark.parametrize("name", [ARRAYS, STATE, MANIFEST])
@pytest.mark.parametrize("damage", ["truncated", "gone", "empty"])
def test_a_damaged_checkpoint_is_passed_over_with_a_word(folder, caplog, name, damage):
    folder.save(made(1))
    path = folder.save(made(2)) / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else -3])
    assert folder.newest().step == 1
    assert "step-00000002 is damaged; going back to the one before" in caplog.text


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_flipped_bit_is_noticed(tmp_path_factory, data):
    folder = CheckpointFolder(tmp_path_factory.mktemp("run"), keep=2)
    folder.save(made(1))
    path = folder.save(made(2)) / data.draw(st.sampled_from([ARRAYS, STATE, MANIFEST]))
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(raw))
    assert folder.newest().step == 1


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(folder):
    folder.save(made(1))
    (folder.save(made(2)) / ARRAYS).write_bytes(b"")
    folder.save(made(2))
    assert folder.newest().step == 2


def test_asking_for_a_missing_step_names_it(folder):
    with pytest.raises(CheckpointError, match="step-00000009: is missing or damaged"):
        folder.load(9)


def test_a_full_disk_leaves_the_older_one_and_says_so(folder, monkeypatch):
    folder.save(made(1))

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifest, "sync_file", full)
    with pytest.raises(CheckpointError, match=r"step 2 was not written .*No space left"):
        folder.save(made(2))
    assert folder.newest().step == 1
    assert not list(folder.folder.glob(".tmp-*"))


def test_space_is_looked_at_before_writing(folder, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match="bytes are needed and 10 are free"):
        folder.save(made(1))


def test_a_really_full_disk(tmp_path):
    """A file-size limit stands in for a small disk: the write itself fails."""
    code = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.test_checkpoint import made
from pipeline.errors import CheckpointError
from pipeline.train.checkpoint import CheckpointFolder
folder = CheckpointFolder(Path(sys.argv[1]), keep=2)
folder.save(made(1))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    folder.save(made(2, size=100_000))
except CheckpointError as error:
    print("refused:", error)
print("newest", folder.newest().step)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "refused:" in done.stdout
    assert "newest 1" in done.stdout


SAVE_FOREVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.test_checkpoint import made
from pipeline.train.checkpoint import CheckpointFolder
folder = CheckpointFolder(Path(sys.argv[1]), keep=2)
newest = folder.newest()
step = newest.step if newest else 0
print("from", step, flush=True)
while True:
    step += 1
    folder.save(made(step, size=20_000))
"""


def test_kill_9_while_saving_never_loses_a_committed_checkpoint(tmp_path):
    generator, last = np.random.default_rng(0), 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(tmp_path), str(ROOT)],
            stdout=subprocess.PIPE,
            text=True,
        )
        first = int(process.stdout.readline().split()[1])
        assert first >= last
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=float(generator.uniform(0.05, 0.4)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        folder = CheckpointFolder(tmp_path, keep=2)
        newest = folder.newest()
        assert newest is not None
        assert newest.step == max(folder.steps())
        assert np.array_equal(np.array(newest.arrays["model/w"]), np.full(20_000, newest.step))
        last = newest.step
    folder.save(made(last + 1))
    assert not list(tmp_path.glob(".tmp-*"))
