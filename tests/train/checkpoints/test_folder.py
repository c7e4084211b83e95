"""Checkpoints are whole or invisible, whatever stops the writing."""

import errno
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.device import mx
from pipeline.errors import CheckpointError
from pipeline.train.checkpoints import folder as module
from pipeline.train.checkpoints import manifest
from pipeline.train.checkpoints.folder import CheckpointFolder
from pipeline.train.checkpoints.manifest import ARRAYS, MANIFEST, STATE
from tests.support.saved import ROOT, SAVE_FOREVER, made, names


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


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_file_cut_short_anywhere_is_noticed(tmp_path_factory, data):
    folder = CheckpointFolder(tmp_path_factory.mktemp("run"), keep=2)
    folder.save(made(1))
    path = folder.save(made(2)) / data.draw(st.sampled_from([ARRAYS, STATE, MANIFEST]))
    raw = path.read_bytes()
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    assert folder.newest().step == 1


def test_a_checkpoint_under_the_name_of_another_step_is_none(folder):
    folder.save(made(2)).rename(folder.path(9))
    folder.save(made(1))
    assert folder.newest().step == 1
    with pytest.raises(CheckpointError, match="it holds step 2"):
        folder.load(9)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_afresh_by_itself(folder):
    for step in (1, 2):
        (folder.save(made(step)) / ARRAYS).write_bytes(b"")
    with pytest.raises(
        CheckpointError, match="all 2 checkpoints are damaged, the newest of step 2"
    ):
        folder.newest()
    assert folder.steps() == [1, 2]


def test_foreign_names_are_no_steps(folder):
    folder.save(made(123_456_789))
    for name in (
        "step-abc",
        "step-12",
        "step-0000000012",
        "step-",
        "step--0000001",
        "xstep-00000001",
    ):
        (folder.folder / name).mkdir()
    assert folder.steps() == [123_456_789]
    assert folder.newest().step == 123_456_789


def test_a_damaged_checkpoint_does_not_count_among_those_to_keep(folder):
    for step in (1, 2):
        folder.save(made(step))
    (folder.path(2) / ARRAYS).write_bytes(b"")
    assert folder.newest().step == 1
    folder.save(made(3))
    assert folder.steps() == [1, 3]


def test_what_was_just_saved_is_kept_though_a_later_one_is_there(tmp_path):
    CheckpointFolder(tmp_path, keep=1).save(made(3))
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(made(2))
    assert 2 in folder.steps()


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


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_save_leaves_nothing(folder, monkeypatch, error):
    folder.save(made(1))

    def stop(*args):
        raise error

    monkeypatch.setattr(module, "write_parts", stop)
    with pytest.raises(error):
        folder.save(made(2))
    assert names(folder) == ["step-00000001"]


def test_older_ones_stay_until_the_new_one_is_durable(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(made(1))
    real = module.sync_folder

    def fail(path):
        monkeypatch.setattr(module, "sync_folder", real)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module, "sync_folder", fail)
    with pytest.raises(CheckpointError, match=r"step 2 was not written .*Input/output"):
        folder.save(made(2))
    assert names(folder) == ["step-00000001"]
    folder.save(made(2))
    assert names(folder) == ["step-00000002"]


def test_a_checkpoint_that_a_killed_save_named_is_made_durable_before_older_ones_go(
    tmp_path, monkeypatch
):
    CheckpointFolder(tmp_path, keep=2).save(made(1))
    CheckpointFolder(tmp_path, keep=2).save(made(2))
    seen, real = [], module.sync_folder

    def note(path):
        seen.append(names(folder))
        real(path)

    monkeypatch.setattr(module, "sync_folder", note)
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(made(2))
    assert seen[0] == ["step-00000001", "step-00000002"]
    assert names(folder) == ["step-00000002"]


def test_a_checkpoint_that_cannot_be_deleted_is_a_warning(folder, monkeypatch, caplog):
    def fail(path):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(folder, "set_aside", fail)
    for step in (1, 2, 3):
        folder.save(made(step))
    assert folder.steps() == [1, 2, 3]
    assert "superfluous checkpoints stay ([Errno 13] Permission denied)" in caplog.text


def test_leftovers_go_before_the_next_save_needs_their_room(folder, monkeypatch, caplog):
    for name in (".tmp-00000001-7", ".tmp-00000002-7"):
        (folder.folder / name).mkdir()
    real = module.shutil.rmtree

    def remove(path, **options):
        if path.name == ".tmp-00000001-7":
            raise OSError(errno.EBUSY, "Device or resource busy")
        real(path, **options)

    monkeypatch.setattr(module.shutil, "rmtree", remove)
    monkeypatch.setattr(folder, "require_space", lambda checkpoint: seen.append(names(folder)))
    seen = []
    folder.save(made(1))
    assert seen == [[".tmp-00000001-7"]]
    assert ".tmp-00000001-7: is superfluous and cannot be deleted" in caplog.text


def test_a_removed_folder_is_an_error_and_no_fresh_start(folder):
    folder.save(made(1))
    shutil.rmtree(folder.folder)
    with pytest.raises(CheckpointError, match=r"step 2 was not written .*No such file"):
        folder.save(made(2))
    with pytest.raises(CheckpointError, match=r"run: cannot be read .*No such file"):
        folder.newest()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file/run: cannot be made .*Not a directory"):
        CheckpointFolder(tmp_path / "file/run", keep=1)


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
from tests.train.checkpoints.test_folder import made
from pipeline.errors import CheckpointError
from pipeline.train.checkpoints.folder import CheckpointFolder
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


@pytest.mark.parametrize(
    ("options", "spoil", "mend", "reason"),
    [
        ("size=2m", "true", "true", "Unable to write"),
        ("nr_inodes=8", "true", "mount -o remount,nr_inodes=99 {}", "No space left on device"),
        ("nr_inodes=6", "true", "mount -o remount,nr_inodes=99 {}", "No space left on device"),
        ("size=9m", "mount -o remount,ro {}", "mount -o remount,rw {}", "Read-only file system"),
    ],
)
def test_a_spoilt_disk_leaves_the_older_one(on_small_disk, tmp_path, options, spoil, mend, reason):
    out = on_small_disk(options, spoil.format(tmp_path), mend.format(tmp_path))
    assert "step 2 was not written" in out
    assert reason in out
    assert "left ['step-00000001'] 1" in out
    assert "then ['step-00000003'] 3" in out


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
