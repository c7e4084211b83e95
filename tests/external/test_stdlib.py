"""The standard library as text: real code, whole packages in one split, nothing lost unseen."""

import platform
from collections import Counter

import pytest
from omegaconf import OmegaConf

from pipeline.data.sources.source import BadRow, Row, Splitter
from pipeline.data.sources.stdlib import StdlibRows
from pipeline.errors import DataError
from pipeline.external import sources
from pipeline.external.stdlib import stdlib_files, stdlib_fingerprint, stdlib_root

CONFIG = {"data": {"source": "stdlib", "chat_template": None}}


@pytest.fixture
def root(tmp_path):
    """A small library: modules, a package, and what is left out."""
    files = {
        "one.py": b"x = 1\n",
        "two/__init__.py": b" \n",
        "two/latin.py": b"# -*- coding: latin-1 -*-\n# caf\xe9\r\n",
        "two/broken.py": b"# caf\xe9\n",
        "two/wrong.py": b"# coding: no-such-code\n",
        "two/test/test_two.py": b"assert 2\n",
        "test/test_one.py": b"assert 1\n",
        "site-packages/other.py": b"y = 2\n",
        "config-3.11/python-config.py": b"z = 3\n",
        "_sysconfigdata__linux.py": b"z = 3\n",
        "two/data.txt": b"no code\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def read(root, splitter=None):
    counts = Counter()
    rows = list(StdlibRows(root, splitter or Splitter(0.0, 0.0)).read(counts))
    return rows, counts


def test_a_row_for_each_module_by_name(root):
    rows, counts = read(root)
    found = {row.file.relative_to(root).as_posix(): row.record for row in rows}
    assert {name: record.content.text for name, record in found.items()} == {
        "one.py": "x = 1\n",
        "two/latin.py": "# -*- coding: latin-1 -*-\n# café\n",
    }
    assert [record.cluster for record in found.values()] == ["one", "two"]
    assert counts == {"rows": 2, "empty_files": 1, "undecodable_files": 2}


def test_a_file_that_is_no_text_is_a_bad_row(root):
    (root / "nul.py").write_bytes(b"x = '\0'\n")
    rows, counts = read(root)
    assert [type(row) for row in rows] == [BadRow, Row, Row]
    assert (rows[0].file, counts["rows"]) == (root / "nul.py", 3)


def test_the_fingerprint_sees_every_byte_and_nothing_else(root):
    before = stdlib_fingerprint(root)
    assert before["python"] == platform.python_version()
    (root / "test/test_one.py").write_text("changed")
    assert stdlib_fingerprint(root) == before
    (root / "one.py").rename(root / "uno.py")
    renamed = stdlib_fingerprint(root)
    assert renamed["standard library"]["size"] == before["standard library"]["size"]
    assert renamed != before
    (root / "uno.py").write_text("x = 2\n")
    assert stdlib_fingerprint(root) != renamed


def test_the_fingerprint_goes_into_params_yaml(root, monkeypatch):
    monkeypatch.setattr("pipeline.external.sources.stdlib_root", lambda: root)
    assert sources.data_fingerprint(OmegaConf.create(CONFIG)) == stdlib_fingerprint(root)
    assert sources.data_root(OmegaConf.create(CONFIG).data) == root


def test_a_library_without_source(tmp_path):
    with pytest.raises(DataError, match=r"data\.source=stdlib: this Python has no source files in"):
        stdlib_files(tmp_path)


def test_the_library_of_this_machine():
    root = stdlib_root()
    rows, counts = read(root, Splitter(0.05, 0.05))
    assert len(rows) == counts["rows"] > 400
    assert not {"test", "tests", "idlelib", "site-packages"} & {
        part for row in rows for part in row.file.relative_to(root).parts[:-1]
    }
    places = {}
    for row in rows:
        places.setdefault(row.record.cluster, set()).add(row.split)
    assert all(len(splits) == 1 for splits in places.values()), "a package stays in one split"
    by_split = Counter(row.split for row in rows)
    assert set(by_split) == {"train", "validation", "test"}
    assert by_split["train"] > 0.7 * len(rows)
    assert (
        [row.file for row in read(root)[0]]
        == [row.file for row in rows]
        == sorted(row.file for row in rows)
    )
