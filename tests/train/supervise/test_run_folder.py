"""Where checkpoints lie: the same run finds them again, any other one does not."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.config.stage import Paths
from pipeline.errors import CheckpointError
from pipeline.files import FileLock
from pipeline.train.supervise import run_folder
from pipeline.train.supervise.run_folder import RunFolder, run_key


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(run_folder, "dependency_hashes", lambda stage, paths: {"code": "1"})
    return OmegaConf.create(
        {"seed": 0, "train": {"num_steps": 3, "steps_per_save": 5, "prefix_cache_gb": 1.0}}
    )


def test_what_changes_the_result_changes_the_key(config, monkeypatch):
    paths = Paths(Path())
    key = run_key("train", config, paths)
    assert run_key("train", config.copy(), paths) == key
    other = config.copy()
    other.train.num_steps = 4
    assert run_key("train", other, paths) != key
    assert run_key("weights", config, paths) != key
    monkeypatch.setattr(run_folder, "dependency_hashes", lambda stage, paths: {"code": "2"})
    assert run_key("train", config, paths) != key


def test_how_often_it_saves_does_not(config):
    other = config.copy()
    other.train.steps_per_save = 7
    assert run_key("train", other, Paths(Path())) == run_key("train", config, Paths(Path()))


def test_how_much_disk_it_may_take_for_frozen_blocks_does_not_but_whether_any_does(config):
    keys = []
    for size in (0.0, 1.0, 20.0):
        config.train.prefix_cache_gb = size
        keys.append(run_key("train", config, Paths(Path())))
    assert keys[0] != keys[1] == keys[2]


def test_a_second_process_is_told_who_has_the_folder(config, monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    folder = RunFolder.of_stage("train", config, Paths(Path()))
    holder = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from pipeline.files import FileLock; "
            "print(FileLock(Path(sys.argv[1])).acquire())",
            str(folder.lock.path),
        ],
        cwd=run_folder.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert holder.stdout.strip() == "False"
    with pytest.raises(CheckpointError, match=r"already under way, in process \d+"):
        RunFolder.of_stage("train", config, Paths(Path()))
    folder.clear()
    assert not folder.path.exists()
    RunFolder.of_stage("train", config, Paths(Path())).clear()


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "runs/abc")
    yield folder
    folder.lock.release()


def test_a_run_can_be_started_afresh(folder):
    (folder.path / "step-00000004").mkdir()
    (folder.path / "train.csv").write_text("x")
    folder.choose_start("auto")
    assert len(list(folder.path.iterdir())) == 2
    folder.choose_start("never")
    assert not list(folder.path.iterdir())


@pytest.mark.parametrize("kept", ["step-00000004", "non_finite-00000001.json"])
def test_a_folder_with_something_to_keep_is_kept(folder, kept):
    with folder:
        (folder.path / kept).mkdir()
    assert folder.path.exists()
    other = FileLock(folder.lock.path)
    assert other.acquire()
    other.release()


def test_a_folder_without_is_not(folder):
    with pytest.raises(ValueError, match="refused"), folder:
        (folder.path / "task.json").write_text("{}")
        raise ValueError("refused")
    assert not list(folder.path.parent.iterdir())


def test_a_checkpoint_can_be_insisted_on(folder):
    with pytest.raises(CheckpointError, match="this run has no checkpoint in"):
        folder.choose_start("required")
    (folder.path / "step-00000004").mkdir()
    folder.choose_start("required")


def test_a_lock_that_was_deleted_meanwhile_is_not_taken_for_the_lock(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    (tmp_path / "lock").unlink()
    first.release()
    assert second.acquire()
    third = FileLock(tmp_path / "lock")
    assert not third.acquire()
    second.release()
    third.release()
