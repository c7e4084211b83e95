"""What a data set's folder names must be in it, and no row may be longer than allowed."""

import bz2
import gzip
import json
import lzma

import pytest

from pipeline.data.sources.dataset_checks import check_card, check_lines, check_saved, is_saved
from pipeline.errors import DataError

OPENERS = {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(60))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    return folder


def write_card(folder, settings):
    (folder / "README.md").write_text(f"---\n{settings}\n---\n# a set\n")


@pytest.mark.parametrize("place", ["../other.jsonl", "/etc/hosts", "zip://a::b", "s3://a/b"])
def test_a_card_that_names_other_files(folder, place):
    card = {"configs": [{"config_name": "one", "data_files": [{"split": "train", "path": place}]}]}
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n# a set\n")
    with pytest.raises(DataError, match=f"the set: README.md names {place}, which is not in"):
        check_card("the set", folder)
    (folder / "README.md").write_text("# a set\nSee https://example.org/ and ../other.\n")
    check_card("the set", folder)
    (folder / "README.md").unlink()
    check_card("the set", folder)


def test_settings_that_are_hidden(folder):
    (folder / ".huggingface.yaml").touch()
    with pytest.raises(DataError, match=r"\.huggingface\.yaml is not read here\.\nWrite it into"):
        check_card("the set", folder)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (LAUGHS + "configs: *a60", r"line 3 refers to \*a0; write it out"),
        ("configs: [" + "a, " * (1 << 21) + "a]", "letters of settings; 4194304 are allowed"),
        ("configs: [", "flow"),
        ("- a", "should be a dict"),
        ("configs: " + "[" * 150 + "]" * 150, "nested more than 100 levels deep"),
        ("configs: " + "[" * 99999, "line 2 is nested more than 100 levels deep"),
    ],
    ids=["aliases", "long", "no YAML", "a list", "deep", "deeper"],
)
def test_a_card_that_cannot_be_read(folder, settings, problem):
    write_card(folder, settings)
    with pytest.raises(DataError, match=f"(?s)the set: README.md cannot be read: .*{problem}"):
        check_card("the set", folder)


def saved(folder, *files):
    folder.mkdir(exist_ok=True)
    state = {"_data_files": [{"filename": file} for file in files], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))


def test_a_saved_data_set_that_names_files_outside(folder, tmp_path):
    (tmp_path / "x.arrow").touch()
    (folder / "link.arrow").symlink_to(tmp_path / "x.arrow")
    (folder / "own.arrow").touch()
    assert not is_saved(folder)
    saved(folder, "own.arrow")
    assert is_saved(folder)
    check_saved("the set", folder)
    saved(folder, "own.arrow", "../x.arrow", "/etc/hosts", "link.arrow", "a\0b")
    with pytest.raises(DataError) as caught:
        check_saved("the set", folder)
    assert str(caught.value).split("\n")[:5] == [
        "the set: these are not in the folder:",
        "  ../x.arrow, which state.json names",
        "  /etc/hosts, which state.json names",
        "  link.arrow, which state.json names",
        r"  a\x00b, which state.json names",
    ]


def test_saved_splits_that_lie_outside(folder, tmp_path):
    saved(folder / "train", "own.arrow")
    saved(folder / "other", "../../x.arrow")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    check_saved("the set", folder)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "other"]}))
    with pytest.raises(DataError, match=r"\.\./\.\./x\.arrow, which state\.json names"):
        check_saved("the set", folder)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["../other"]}))
    with pytest.raises(DataError, match=r"\.\./other, which dataset_dict\.json names"):
        check_saved("the set", folder)
    (folder / "dataset_dict.json").write_text("[" * 9999)
    with pytest.raises(DataError, match=r"dataset_dict\.json: is no JSON that can be read"):
        check_saved("the set", folder)


@pytest.mark.parametrize("suffix", OPENERS)
def test_a_line_that_is_too_long(folder, suffix):
    file = folder / f"train.jsonl{suffix}"
    with OPENERS[suffix](file, "wb") as stream:
        stream.write(b"a" * 64 + b"\r\n" + b"a" * 64)
    check_lines("the set", [file, folder / "other.parquet"], 64)
    with OPENERS[suffix](file, "ab") as stream:
        stream.write(b"\n" + b"a" * (1 << 24))
    with pytest.raises(DataError, match=r"line 3 is longer than data\.max_line_bytes=64\.\n"):
        check_lines("the set", [file], 64)
    if suffix:
        file.write_bytes(file.read_bytes()[:40])
        with pytest.raises(DataError, match=f"train.jsonl{suffix} cannot be read: "):
            check_lines("the set", [file], 64)
