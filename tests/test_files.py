"""Files are whole or absent, whatever fails; hashes notice changes; locks die with their owner."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import files
from pipeline.files import (
    FileLock,
    cached_sha256_file,
    clear_leftovers,
    forget_hashes,
    make_folder,
    new_file,
    new_folder,
    read_json,
    recall_notice,
    sha256_bytes,
    sha256_file,
    sha256_path,
    write_json,
    write_text,
)

ROOT = Path(__file__).resolve().parents[1]
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/tidewheel"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fail(*args, **kwargs):
    raise OSError(28, "No space left on device")


def python(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, **options)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    return path


# Whole or absent


@pytest.mark.parametrize(("place", "step"), [(os, "fsync"), (Path, "chmod"), (Path, "replace")])
def test_text_that_cannot_be_written_leaves_the_old_text(folder, monkeypatch, place, step):
    write_text(folder / "a.txt", "old")
    monkeypatch.setattr(place, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(folder / "a.txt", "new")
    assert (folder / "a.txt").read_text() == "old"
    assert names(folder) == ["a.txt"]


def test_text_is_written_as_it_is(folder):
    write_text(folder / "deep/a.txt", "Ä\nb\r\n")
    assert (folder / "deep/a.txt").read_bytes() == "Ä\nb\r\n".encode()
    assert (folder / "deep/a.txt").stat().st_mode & 0o777 == 0o644


def test_json_returns_as_it_went(folder):
    value = {"ö": [1, 2.5, None, True], "empty": {}}
    write_json(folder / "a.json", value)
    assert read_json(folder / "a.json") == value
    assert "ö" in (folder / "a.json").read_text()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_json_refuses_what_is_no_json_and_keeps_the_old(folder, number):
    write_json(folder / "a.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(folder / "a.json", {"loss": number})
    assert read_json(folder / "a.json") == {"loss": 1.0}


def test_a_new_folder_takes_the_place_of_the_old_one(folder):
    with new_folder(folder / "model") as partial:
        (partial / "old").touch()
        assert not (folder / "model").exists()
    with new_folder(folder / "model") as partial:
        (partial / "new").touch()
        assert names(folder / "model") == ["old"]
    assert names(folder / "model") == ["new"]
    assert names(folder) == ["model"]
    assert (folder / "model").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_a_folder_that_fails_leaves_the_old_one(folder, error):
    (folder / "model").mkdir()
    (folder / "model/old").touch()
    with pytest.raises(error), new_folder(folder / "model") as partial:
        (partial / "new").touch()
        raise error
    assert names(folder / "model") == ["old"]
    assert names(folder) == ["model"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(folder, monkeypatch, can_exchange):
    (folder / "model").mkdir()
    (folder / "model/old").touch()
    real = Path.rename

    def rename(self, target):
        if (self / "new").exists():
            fail()
        return real(self, target)

    monkeypatch.setattr(files, "exchanged", fail if can_exchange else lambda *names: False)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="No space left"), new_folder(folder / "model") as partial:
        (partial / "new").touch()
    assert names(folder / "model") == ["old"]
    assert names(folder) == ["model"]


def test_two_names_are_exchanged_in_one_step(folder):
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / f"in_{name}").touch()
    if not files.exchanged(folder / "a", folder / "b"):
        pytest.skip("this file system cannot exchange two names")
    assert (names(folder / "a"), names(folder / "b")) == (["in_b"], ["in_a"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        files.exchanged(folder / "a", folder / "nowhere")


def test_where_names_cannot_be_exchanged_a_folder_is_replaced_all_the_same(folder, monkeypatch):
    monkeypatch.setattr(files, "exchanged", lambda *names: False)
    for name in ("old", "new"):
        with new_folder(folder / "model") as partial:
            (partial / name).touch()
    assert names(folder / "model") == ["new"]
    assert names(folder) == ["model"]


def test_a_link_to_a_folder_stays_one(folder):
    (folder / "big disk/model").mkdir(parents=True)
    (folder / "big disk/model/old").touch()
    (folder / "model").symlink_to("big disk/model")
    with new_folder(folder / "model") as partial:
        assert partial.parent == folder / "big disk"
        (partial / "new").touch()
    assert (folder / "model").is_symlink()
    assert names(folder / "big disk/model") == ["new"]
    assert names(folder / "big disk") == ["model"]


@pytest.mark.parametrize("error", [None, OSError])
def test_a_file_takes_its_place_when_it_is_whole(folder, error):
    (folder / "a.csv").write_text("old")
    expected = contextlib.nullcontext() if error is None else pytest.raises(error)
    with expected, new_file(folder / "a.csv") as partial:
        partial.write_text("new")
        assert (folder / "a.csv").read_text() == "old"
        if error is not None:
            raise error
    assert (folder / "a.csv").read_text() == ("new" if error is None else "old")
    assert names(folder) == ["a.csv"]


@pytest.mark.parametrize("write", [new_folder, new_file])
def test_the_error_of_a_write_names_what_was_to_be_written(folder, write):
    message = f"No space left on device: '{folder}/a'"
    with pytest.raises(OSError, match=message), write(folder / "a"):
        fail()


def test_leftovers_go_and_nothing_else_does(folder):
    with new_folder(folder / "model") as partial:
        (partial / "whole").touch()
    for name in (".model.abcdefgh/half", ".model.old/earlier", "model2/x", ".models/x"):
        (folder / name).parent.mkdir()
        (folder / name).touch()
    (folder / ".model.zyxwvuts").write_text("of a file")
    clear_leftovers(folder / "model")
    clear_leftovers(folder / "nowhere/model")
    assert names(folder) == [".models", "model", "model2"]
    assert names(folder / "model") == ["whole"]


def test_the_earlier_folder_returns_after_a_kill_between_two_renames(folder, monkeypatch):
    (folder / ".model.old").mkdir()
    (folder / ".model.old/earlier").touch()
    (folder / ".model.abcdefgh").mkdir()
    clear_leftovers(folder / "model")
    assert names(folder) == ["model"]
    assert names(folder / "model") == ["earlier"]


def test_a_folder_is_on_the_disk_before_it_has_its_name(folder, monkeypatch):
    synced, real = [], files.sync_file

    def sync(path):
        synced.append((path.name, (folder / "model").exists()))
        real(path)

    monkeypatch.setattr(files, "sync_file", sync)
    with new_folder(folder / "model") as partial:
        (partial / "sub").mkdir()
        (partial / "sub/a").touch(0o444)
        (partial / "broken").symlink_to("nowhere")
    assert {("sub", False), ("a", False), (partial.name, False)} <= set(synced)
    assert synced[-1] == ("folder", True)


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline import files
folder = Path(sys.argv[1])
with files.new_folder(folder / "model") as partial:
    (partial / "half").write_text("x" * 1000)
    if sys.argv[2] == "folder":
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
files.write_text(folder / "a.txt", "new")
"""


@pytest.mark.parametrize("what", ["folder", "text"])
def test_a_kill_leaves_the_old_or_the_new_and_no_half(folder, what):
    write_text(folder / "a.txt", "old")
    with new_folder(folder / "model") as partial:
        (partial / "old").touch()
    child = python(KILLED, folder, what)
    assert child.wait() == -signal.SIGKILL
    assert (folder / "a.txt").read_text() == "old"
    assert names(folder / "model") == (["old"] if what == "folder" else ["half"])


def test_a_made_folder_is_durable_with_all_names_that_lead_to_it(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    make_folder(tmp_path / "a/b")
    make_folder(tmp_path / "a/b")  # whoever made it may have been killed before it was durable
    assert (tmp_path / "a/b").is_dir()
    assert synced[:2] == [tmp_path / "a", tmp_path]
    assert synced[len(synced) // 2 :] == synced[: len(synced) // 2]


@pytest.mark.parametrize(("error", "passes"), [(PermissionError, True), (OSError, False)])
def test_folders_of_others_need_not_be_durable(tmp_path, monkeypatch, error, passes):
    def fail(folder):
        raise error

    monkeypatch.setattr(files, "sync_folder", fail)
    with contextlib.nullcontext() if passes else pytest.raises(error):
        make_folder(tmp_path / "a")


# Hashes


def test_hashes_are_sha256(folder):
    (folder / "empty").touch()
    assert sha256_bytes(b"") == sha256_file(folder / "empty") == EMPTY_SHA256
    (folder / "blocks").write_bytes(b"ab" * files.HASH_BLOCK_BYTES)
    assert sha256_file(folder / "blocks") == sha256_bytes(b"ab" * files.HASH_BLOCK_BYTES)


def test_a_folder_is_hashed_with_its_names(folder):
    (folder / "a").write_text("1")
    (folder / "b").write_text("2")
    before = sha256_path(folder)
    assert sha256_path(folder / "a") == sha256_bytes(b"1")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/a.pyc").write_text("compiled")
    assert sha256_path(folder) == before
    (folder / "b").rename(folder / "c")
    renamed = sha256_path(folder)
    (folder / "c").write_text("3")
    assert len({before, renamed, sha256_path(folder)}) == 3


def test_a_cached_hash_reads_an_unchanged_file_once(folder, monkeypatch):
    (folder / "a").write_text("1")
    digest = cached_sha256_file(folder / "a")
    monkeypatch.setattr(files, "sha256_file", fail)
    assert cached_sha256_file(folder / "a") == digest == sha256_bytes(b"1")


def in_place(path):
    with path.open("r+") as file:
        file.write("2")


def replaced(path):
    path.with_name("other").write_text("2")
    path.with_name("other").replace(path)


def longer(path):
    path.write_text("11")


@pytest.mark.parametrize("change", [in_place, replaced, longer])
@pytest.mark.parametrize("keeps_time", [True, False])
def test_a_cached_hash_notices_a_changed_file(folder, change, keeps_time):
    (folder / "a").write_text("1")
    os.utime(folder / "a", ns=(0, 1_000_000_000))
    cached_sha256_file(folder / "a")
    change(folder / "a")
    if keeps_time:  # as `rsync -t --inplace` and `cp -p` do
        os.utime(folder / "a", ns=(0, 1_000_000_000))
    assert cached_sha256_file(folder / "a") == sha256_file(folder / "a")


def test_what_rots_on_the_disk_is_found_when_hashes_are_forgotten(folder, cache):
    (folder / "a").write_text("1")
    digest = cached_sha256_file(folder / "a")
    (known,) = (cache / "sha256").iterdir()
    write_json(known, read_json(known) | {"sha256": "of what it was"})
    assert cached_sha256_file(folder / "a") == "of what it was"
    forget_hashes()
    assert cached_sha256_file(folder / "a") == digest
    forget_hashes()
    forget_hashes()


def test_what_was_recalled_is_told(folder, monkeypatch):
    monkeypatch.setattr(files, "RECALLED", {})
    for name in ("a", "b"):
        (folder / name).write_text("12345")
        cached_sha256_file(folder / name)
    assert recall_notice() is None
    cached_sha256_file(folder / "a")
    assert recall_notice().startswith("1 file (5 bytes) not read again: size, inode and times are")
    cached_sha256_file(folder / "b")
    cached_sha256_file(folder / "b")
    assert recall_notice().startswith("2 files (10 bytes) not read again")
    assert recall_notice().endswith("`python -m stages.params --rehash` reads them")


def test_a_cache_that_cannot_be_used_costs_time_only(folder, cache, monkeypatch):
    (folder / "a").write_text("1")
    cache.parent.mkdir()
    cache.write_text("a file where a folder should be")
    for _ in range(2):
        assert cached_sha256_file(folder / "a") == sha256_bytes(b"1")


@pytest.mark.parametrize("record", ["", "{", "[]", "{}", '{"size": 1}', "null"])
def test_a_spoilt_cache_is_made_again(folder, cache, record):
    (folder / "a").write_text("1")
    cached_sha256_file(folder / "a")
    (known,) = (cache / "sha256").iterdir()
    known.write_text(record)
    assert cached_sha256_file(folder / "a") == sha256_bytes(b"1")
    assert read_json(known)["sha256"] == sha256_bytes(b"1")


@pytest.mark.parametrize("spoil", ["file", "no home"])
def test_without_a_cache_a_file_is_hashed_each_time(folder, cache, monkeypatch, caplog, spoil):
    (folder / "a").write_text("1")
    if spoil == "file":
        cache.parent.mkdir()
        cache.write_text("no folder")
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", no_home)
    assert cached_sha256_file(folder / "a") == sha256_bytes(b"1")
    assert "is hashed again each time it is read" in caplog.text


def no_home():
    raise RuntimeError("Could not determine home directory.")


# Locks

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.files import FileLock
lock = FileLock(Path(sys.argv[1]))
print(lock.acquire(), flush=True)
time.sleep(60)
"""


def test_a_lock_names_its_owner_and_dies_with_it(folder):
    child = python(HOLDER, folder / "lock", stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "True\n"
        lock = FileLock(folder / "lock")
        assert not lock.acquire()
        assert lock.owner() == str(child.pid)
    finally:
        child.kill()
        child.communicate()
    assert lock.acquire()
    assert lock.owner() == str(os.getpid())
    lock.release()


def test_a_lock_given_back_can_be_taken(folder):
    first, second = FileLock(folder / "sub/lock"), FileLock(folder / "sub/lock")
    assert first.owner() == "unknown"
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
