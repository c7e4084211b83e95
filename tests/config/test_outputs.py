"""Outputs are sealed by hashes, checked when they are read, and written by one process."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import files
from pipeline.config import outputs
from pipeline.config.outputs import SUMS, OutputLock, check_sealed, is_ending, seal
from pipeline.errors import PipelineError, StorageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A sealed folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "output"
    (folder / "best").mkdir(parents=True)
    for name in ("config.json", "tokens.bin", "best/adapters"):
        (folder / name).write_text(name)
    seal(folder)
    return folder


def problem_with(folder):
    """Return what a check of the folder finds."""
    with pytest.raises(PipelineError) as caught:
        check_sealed(folder, "Do this.")
    return str(caught.value)


def test_what_was_sealed_passes_wherever_it_lies(folder, tmp_path):
    check_sealed(folder, "")
    shutil.copytree(folder, tmp_path / "copy")
    check_sealed(tmp_path / "copy", "")


def test_equal_folders_get_equal_seals(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / SUMS).unlink()
    seal(tmp_path / "copy")
    assert (tmp_path / "copy" / SUMS).read_bytes() == (folder / SUMS).read_bytes()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum here")
def test_the_seal_is_read_by_sha256sum(folder):
    assert subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=folder).returncode == 0
    (folder / "tokens.bin").write_text("changed")
    done = subprocess.run(["sha256sum", "--check", SUMS], cwd=folder, capture_output=True)
    assert b"tokens.bin: FAILED" in done.stdout


def test_every_change_is_named_with_the_remedy(folder):
    (folder / "config.json").write_text("cxnfig.json")  # of the same size
    (folder / "best/adapters").unlink()
    (folder / "chat_template.jinja").touch()
    assert problem_with(folder) == (
        f"{folder} is not what its stage has written (SHA256SUMS has the hashes):\n"
        "  best/adapters: is gone\n"
        "  chat_template.jinja: is new\n"
        "  config.json: has changed\n"
        "Do this."
    )


def test_files_of_the_desktop_do_not_count(folder):
    (folder / ".DS_Store").touch()
    (folder / "best/._adapters").touch()
    check_sealed(folder, "")


def test_a_folder_without_a_seal_is_refused(folder):
    (folder / SUMS).unlink()
    assert "output has no SHA256SUMS: it is not what a stage writes, or it was" in problem_with(
        folder
    )


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n", b"abc\n"])
def test_a_damaged_seal_is_a_change(folder, content):
    (folder / SUMS).write_bytes(content)
    assert "config.json: is new" in problem_with(folder)


def test_large_files_are_hashed_once(folder, monkeypatch):
    monkeypatch.setattr(outputs, "LARGE_BYTES", 1)
    check_sealed(folder, "")
    monkeypatch.setattr(files, "sha256_file", None)
    check_sealed(folder, "")
    with pytest.raises(TypeError):  # it wants to hash it
        (folder / "tokens.bin").write_text("changed")
        check_sealed(folder, "")


# The lock

HOLD = """
import sys
from pathlib import Path
from pipeline.config.outputs import OutputLock
lock = OutputLock("train", Path(sys.argv[1]))
with lock.held([]):
    if len(sys.argv) > 2:
        lock.note_ending()
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds the lock."""
    made = []

    def start(*more):
        command = [sys.executable, "-c", HOLD, str(tmp_path), *more]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        made.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))
        assert made[-1].stdout.readline() == "held\n"
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_with_the_owner(holder, tmp_path):
    owner = holder()
    message = f"stage train is already writing there, in process {owner.pid}.\nWait for it, or end"
    with pytest.raises(StorageError, match=message), OutputLock("train", tmp_path).held([]):
        pass
    with OutputLock("export", tmp_path).held([]):
        pass


def test_a_killed_owner_leaves_nothing_behind(holder, tmp_path):
    owner = holder()
    owner.kill()
    owner.wait()
    (tmp_path / "models/.trained.abcdefgh").mkdir(parents=True)
    with OutputLock("train", tmp_path).held(["models/trained"]):
        assert not list((tmp_path / "models").iterdir())
    assert not list(tmp_path.glob(".*.lock"))


def test_an_owner_that_is_ending_is_waited_for(holder, tmp_path):
    owner = holder("ending")
    began = time.monotonic()
    owner.stdin.write("\n")
    owner.stdin.flush()
    with OutputLock("train", tmp_path).held([]):
        assert time.monotonic() - began < files.HANDOVER_SECONDS


def test_one_that_does_not_end_is_not_waited_for_without_end(holder, tmp_path, monkeypatch):
    holder("ending")
    monkeypatch.setattr(files, "HANDOVER_SECONDS", 0.2)
    with pytest.raises(StorageError, match="ending"), OutputLock("train", tmp_path).held([]):
        pass


@pytest.mark.parametrize(
    ("owner", "ending"),
    [("{self}", False), ("1", False), ("1 ending", True), ("unknown", True), ("", True)],
)
def test_who_is_ending(owner, ending):
    assert is_ending(owner.format(self=os.getpid())) is ending


@pytest.mark.parametrize("make", ["mkdir", "unwritable link"])
def test_a_lock_that_cannot_be_opened_names_its_path(tmp_path, make):
    if make == "mkdir":
        (tmp_path / ".train.lock").mkdir()
    else:
        (tmp_path / ".train.lock").symlink_to("nowhere/at/all")
    with pytest.raises(OSError, match=r"\.train\.lock"):
        OutputLock("train", tmp_path)
