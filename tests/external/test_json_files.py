"""Damaged JSON ends in one message with file, key, what is expected, and the remedy."""

import re

import pytest

from pipeline.errors import DataError, ModelError
from pipeline.external import json_files
from pipeline.external.json_files import Remedy, read_foreign, read_own
from pipeline.external.shapes import COUNT, TEXT

REMEDY = Remedy(DataError, "Make it again.")
SHAPE = {"name": TEXT, "count": COUNT}
READERS = [read_own, read_foreign]
DAMAGED = {
    b"": r"is no JSON \(Expecting value",
    b'{"name": "a", "cou': r"is no JSON \(",
    b'\xff\xfe{"': r"is no UTF-8 text \(byte 0\)",
    b'{"name": "caf\xe9"}': r"is no UTF-8 text \(byte 13\)",
    b"[" * 100_000: r"is no JSON that can be read \(nested too deep\)",
    b"[1, 2]": r"holds \[1, 2\]; must hold an object",
    b"null": r"holds null; must hold an object",
    b'"llama"': r'holds "llama"; must hold an object',
}


@pytest.mark.parametrize("read", READERS)
def test_a_whole_file_is_returned_with_keys_that_nobody_asked_for(tmp_path, read):
    path = tmp_path / "a.json"
    path.write_text('{"name": "ä", "count": 3, "more": [1]}')
    assert read(path, SHAPE, REMEDY) == {"name": "ä", "count": 3, "more": [1]}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: str(content[:12]))
def test_a_damaged_file(tmp_path, read, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path}: {DAMAGED[content]}.*\nMake it again\.$"):
        read(path, SHAPE, REMEDY)


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_file(tmp_path, read):
    with pytest.raises(DataError, match=rf"{tmp_path}: is a folder or a device; must be a file"):
        read(tmp_path, SHAPE, REMEDY)
    with pytest.raises(DataError, match=r"a\.json: there is no such file\.\nMake it again"):
        read(tmp_path / "a.json", SHAPE, REMEDY)


@pytest.mark.parametrize("read", READERS)
def test_a_file_that_may_not_be_read(tmp_path, read, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("{}")

    def forbidden(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", forbidden)
    with pytest.raises(DataError, match=r"a\.json: cannot be read \(Permission denied\)\.\nMake"):
        read(path, SHAPE, REMEDY)


@pytest.mark.parametrize("read", READERS)
def test_all_wrong_values_are_named_at_once(tmp_path, read):
    path = tmp_path / "a.json"
    path.write_text('{"count": "three"}')
    with pytest.raises(ModelError) as caught:
        read(path, SHAPE, Remedy(ModelError, "Make it again."))
    assert str(caught.value).splitlines() == [
        f"{path}: these values cannot be used:",
        "  name: is missing",
        f'  count: is "three"; must be {COUNT.words}',
        "Make it again.",
    ]


def test_our_own_files_have_no_nan(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"name": "a", "count": 3, "loss": NaN}')
    assert read_foreign(path, SHAPE, REMEDY)["count"] == 3
    with pytest.raises(DataError, match=r"is no JSON \(NaN is no number\)"):
        read_own(path, SHAPE, REMEDY)


def test_half_of_a_surrogate_pair_in_a_foreign_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(r'{"name": "a", "count": 3, "more": ["x", {"deep": "\ud83d"}], "\udc00": 1}')
    with pytest.raises(DataError) as caught:
        read_foreign(path, SHAPE, REMEDY)
    assert str(caught.value).splitlines() == [
        f"{path}: these texts are no Unicode:",
        "  more[1].deep: holds half of a surrogate pair",
        r"  \udc00: holds half of a surrogate pair",
        "Make it again.",
    ]


def test_a_foreign_file_that_is_too_large(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text('{"name": "a", "count": 3}')
    monkeypatch.setattr(json_files, "MAX_FOREIGN_BYTES", 20)
    with pytest.raises(DataError, match=re.escape("a.json: has 25 bytes; must have 20 at most.")):
        read_foreign(path, SHAPE, REMEDY)
