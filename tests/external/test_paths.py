"""Paths and hub ids that a user gives, and the fingerprint of files."""

import hashlib
import os

import pytest

from pipeline.errors import ConfigError
from pipeline.external.paths import external, fingerprint, is_hub_id, place_problem


def test_a_relative_path_starts_at_the_real_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert external("rows/a.jsonl") == tmp_path / "rows/a.jsonl"
    assert external("/rows/a.jsonl").as_posix() == "/rows/a.jsonl"


@pytest.mark.parametrize(
    ("source", "is_id"),
    [
        ("org/name", True),
        ("scratch", False),
        ("name", False),
        ("./name", False),
        ("a/b/c", False),
        ("a/b.GGUF", False),
    ],
)
def test_a_hub_id_has_two_parts(source, is_id):
    assert is_hub_id(source) is is_id


def test_a_folder_that_exists_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "org/name").mkdir(parents=True)
    assert not is_hub_id("org/name")


def test_a_path_that_is_no_utf8_is_refused(tmp_path):
    message = r"These names are no UTF-8:\n  .*/caf\\udce9\nRename them"
    with pytest.raises(ConfigError, match=message):
        external(f"{tmp_path}/{os.fsdecode(b'caf' + bytes([0xE9]))}")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("file", None),
        ("folder", "folder: is a folder or a device"),
        ("absent", "absent: is missing"),
        ("link", "link: leads out of the folder, to /etc/passwd"),
        (os.fsdecode(b"\xff"), "\udcff: its name is no UTF-8"),
    ],
)
def test_what_is_no_file_of_its_folder(tmp_path, name, problem):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert place_problem(tmp_path / name, tmp_path) == problem


def test_a_fingerprint_has_size_and_hash_by_relative_name(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/rows.jsonl").write_bytes(b"row")
    found = fingerprint([tmp_path / "a/rows.jsonl"], tmp_path)
    assert found == {"a/rows.jsonl": {"size": 3, "sha256": hashlib.sha256(b"row").hexdigest()}}
