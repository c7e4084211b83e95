"""Where checkpoints lie: the same run finds them again, any other one does not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.config.rules import WITHOUT_EFFECT
from pipeline.config.stage_paths import Paths
from pipeline.errors import CheckpointError
from pipeline.files import FileLock
from pipeline.train.supervise import run_folder
from pipeline.train.supervise.run_folder import RunFolder, identity_of
from pipeline.train.supervise.status import Status


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(run_folder, "data_hashes", lambda stage, paths: {"models/base": "1"})
    return OmegaConf.create(
        {
            "seed": 0,
            "lora": {"rank": 8, "targets": ["*"]},
            "train": {"num_steps": 3, "steps_per_save": 5, "prefix_cache_gb": 1.0},
        }
    )


def key(config, stage="train"):
    return identity_of(stage, config, Paths(Path())).key


def changed(config, **changes):
    """Copy with some keys changed, given as section__key."""
    other = config.copy()
    for name, value in changes.items():
        OmegaConf.update(other, name.replace("__", "."), value)
    return other


def test_what_changes_the_result_changes_the_key(config, monkeypatch):
    before = key(config)
    assert key(config.copy()) == before
    assert key(changed(config, train__num_steps=4)) != before
    assert key(changed(config, lora__targets=["q_proj"])) != before
    assert key(config, "weights") != before
    monkeypatch.setattr(run_folder, "data_hashes", lambda stage, paths: {"models/base": "2"})
    assert key(config) != before


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_keys_without_an_effect_do_not(config, name):
    before = key(config)
    OmegaConf.update(config, name, 7)
    assert key(config) == before


def test_a_run_is_the_same_with_samples_and_without(config):
    assert key(changed(config, train__steps_per_sample=5)) == key(config)


def test_how_much_disk_it_may_take_for_frozen_blocks_does_not_but_whether_any_does(config):
    keys = [key(changed(config, train__prefix_cache_gb=size)) for size in (0.0, 1.0, 20.0)]
    assert keys[0] != keys[1] == keys[2]


def adapter(folder, weights="x"):
    """Write what may be the beginning of a run."""
    folder.mkdir()
    for name in ("adapter_config.json", "adapters.safetensors"):
        (folder / name).write_text(weights)
    return str(folder)


def test_of_the_weights_that_a_run_starts_from_the_content_counts(config, tmp_path):
    one, same = adapter(tmp_path / "one"), adapter(tmp_path / "same")
    other = adapter(tmp_path / "other", "y")
    keys = [key(changed(config, train__init_from=each)) for each in (None, one, same, other)]
    assert keys[1] == keys[2]
    assert len(set(keys)) == 3


@pytest.fixture
def start(config, monkeypatch, tmp_path):
    """Start a run of the train stage; leave a checkpoint where a step is given."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))

    def start(step=None, stage="train", **changes):
        run = RunFolder.of_stage(stage, changed(config, **changes), Paths(Path()))
        if step is not None:
            (run.path / f"step-{step:08d}").mkdir()
        run.lock.release()
        return run

    return start


def test_the_nearest_unfinished_run_is_named_with_its_step_and_what_differs(start):
    start(4, train__num_steps=9, seed=1)
    start(2000, lora__rank=16, train__steps_per_save=1)
    assert start().near_run() == (
        "this is a new run. An unfinished one on the same data and base stands at step 2000; it "
        "differs in lora.rank: 16 -> 8 (its value -> the value here)."
    )


def test_of_two_that_are_as_near_the_farther_one_is_named(start):
    start(4, lora__rank=16)
    start(6, lora__rank=32)
    assert "stands at step 6; it differs in lora.rank: 32 -> 8" in start().near_run()


def test_a_run_that_differs_in_much_is_named_in_a_line(start, monkeypatch):
    monkeypatch.setattr(run_folder, "MAX_LISTED", 1)
    start(4, lora__rank=16, seed=1, train__num_steps=2)
    assert "it differs in lora.rank: 16 -> 8 and 2 more" in start().near_run()


def test_the_beginning_of_a_near_run_is_named(start, tmp_path):
    start(4, train__init_from=None)
    text = start(train__init_from=adapter(tmp_path / "one")).near_run()
    assert re.search(r"differs in train\.init_from: null -> sha256:[0-9a-f]{16} \(its", text)


def test_runs_without_a_checkpoint_of_other_stages_and_on_other_data_are_not_near(
    start, monkeypatch
):
    start(lora__rank=16)
    start(3, stage="weights", lora__rank=16)
    start(3)
    assert start().near_run() == ""
    monkeypatch.setattr(run_folder, "data_hashes", lambda stage, paths: {"models/base": "2"})
    start(3, lora__rank=16)
    monkeypatch.setattr(run_folder, "data_hashes", lambda stage, paths: {"models/base": "1"})
    assert start().near_run() == ""
    start(3, lora__rank=16)
    assert start().near_run() != ""


def test_a_folder_without_an_identity_is_passed_over(start, tmp_path):
    (tmp_path / ".checkpoints/old/step-00000004").mkdir(parents=True)
    (tmp_path / ".checkpoints/old/identity.json").write_text("{")
    assert start().near_run() == ""
    alone = RunFolder(tmp_path / "alone")
    assert alone.near_run() == ""
    alone.lock.release()


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
    for has_steps in (False, True):
        if has_steps:
            Status("train", "running", 1, 1, 9, 0.5, 9.9, 0, 0, 0, 0, 0, 0.0).write(folder.path)
        with pytest.raises(CheckpointError, match=r"already under way, in process \d+") as caught:
            RunFolder.of_stage("train", config, Paths(Path()))
        assert ("stages.train --status" in str(caught.value)) is has_steps
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
        (folder.path / "run.json").write_text("{}")
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
