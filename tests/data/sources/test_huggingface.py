"""Data sets of the `datasets` library: read as they lie, from a hub only when asked."""

import dataclasses
import http.server
import json
import sys
import threading
from collections import Counter

import pytest
from omegaconf import OmegaConf

from pipeline.data.rows.metadata import NO_METADATA
from pipeline.data.sources.huggingface import DatasetRows, without_nulls
from pipeline.data.sources.source import BadRow, Splitter
from pipeline.data.sources.table import READERS
from pipeline.errors import ConfigError, DataError
from pipeline.external import sources
from pipeline.files import ROOT
from tests.support.prepared import SETTINGS
from tests.support.provenance import tables

ROWS = [{"text": f"row {number}", "weight": 0.5 if number % 2 else None} for number in range(6)]
TALK = {
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 0.5},
    ]
}


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """The library, or a visible skip; its cache is a folder of this test."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    return pytest.importorskip("datasets", reason="datasets is absent: make huggingface")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "test.jsonl").write_text(json.dumps({"text": "held out"}) + "\n")
    return folder


def read(folder, split="train", subset=None):
    counts = Counter()
    rows = DatasetRows("the set", folder, subset, split, Splitter(0.0, 0.0), 1 << 20)
    return list(rows.read(counts)), counts


def texts(rows):
    return [row.record.content.text for row in rows]


def config_of(name, **more):
    section = {"name": str(name), "subset": None, "split": "train", "revision": None}
    data = {"source": "huggingface", "allow_network": False, "huggingface": section}
    data |= {"chat_template": None, **more}
    return OmegaConf.create({"data": data})


# --- with the library ---


def test_rows_of_the_split_in_order(datasets, folder):
    rows, counts = read(folder)
    assert texts(rows) == [row["text"] for row in ROWS]
    assert [row.record.weight for row in rows] == [1.0, 0.5] * 3
    assert [row.line for row in rows] == [1, 2, 3, 4, 5, 6]
    assert counts == {"rows": 6}
    assert texts(read(folder, "test")[0]) == ["held out"]


@pytest.mark.parametrize("how", ["parquet", "saved", "saved splits"])
def test_each_kind_of_folder(datasets, tmp_path, how):
    made = datasets.Dataset.from_list([*ROWS, {"text": "last", "weight": 1.0}])
    folder = tmp_path / "made"
    folder.mkdir()
    if how == "parquet":
        made.to_parquet(str(folder / "train.parquet"))
    else:
        whole = made if how == "saved" else datasets.DatasetDict(train=made, other=made)
        whole.save_to_disk(str(folder))
    assert texts(read(folder)[0]) == [*(row["text"] for row in ROWS), "last"]


def test_columns_that_are_null_are_absent(datasets, tmp_path):
    """A table has every column in every row, and every key in every message."""
    (tmp_path / "made").mkdir()
    made = datasets.Dataset.from_list(
        [TALK, {"messages": [TALK["messages"][0], TALK["messages"][1]]}]
    )
    made.to_parquet(str(tmp_path / "made/train.parquet"))
    (row, _), _ = read(tmp_path / "made")
    assert row.record.content.weights == (1.0, 0.5)
    assert row.record.content.messages[0] == {"role": "user", "content": "a"}


def test_a_subset(datasets, folder):
    card = "---\nconfigs:\n- config_name: one\n  data_files: train.jsonl\n"
    (folder / "README.md").write_text(card + "- config_name: two\n  data_files: test.jsonl\n---\n")
    assert len(read(folder, subset="one")[0]) == 6
    assert texts(read(folder, subset="two")[0]) == ["held out"]


def test_bad_rows_are_named_by_number(datasets, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n{"text": " "}\n')
    _, bad = read(tmp_path)[0]
    assert isinstance(bad, BadRow)
    assert (bad.file, bad.line) == (tmp_path / "train", 2)
    assert str(bad.error) == "text is only white space"


@pytest.mark.parametrize(("split", "subset"), [("nowhere", None), ("train", "nothing")])
def test_splits_and_subsets_that_are_not_there(datasets, folder, split, subset):
    match = r"the set: the data set cannot be read: .*(nowhere|nothing).*\nLook at data\.hugging"
    with pytest.raises(DataError, match=match):
        read(folder, split, subset)


def test_a_program_beside_the_data_is_not_run(datasets, tmp_path):
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(DataError, match="cannot be read"):
        read(folder)


def test_a_folder_that_names_another_machine_reaches_none(datasets, tmp_path):
    asked = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/rows.jsonl"
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {url}\n---\n"
    (tmp_path / "README.md").write_text(card)
    with pytest.raises(DataError, match=r"names http://127\.0\.0\.1.*\nPut the files into"):
        read(tmp_path)
    server.shutdown()
    server.server_close()
    thread.join()
    assert asked == []


# --- without it ---


@pytest.mark.parametrize("provenance", [None, tables()])
def test_metadata_are_read_for_the_scorer_only(folder, monkeypatch, provenance):
    monkeypatch.setattr(DatasetRows, "rows", lambda self: iter([{"text": "a", "year": 1990}]))
    settings = dataclasses.replace(
        SETTINGS, source="huggingface", path=folder, provenance=provenance
    )
    (row,) = READERS["huggingface"](settings, Splitter(0.0, 0.0)).read(Counter())
    assert (row.record.metadata == NO_METADATA) == (provenance is None)


def test_the_extra_is_named_where_it_is_missing(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    match = r"needs the package `datasets`.*\nInstall it: `make huggingface`"
    with pytest.raises(ConfigError, match=match):
        read(folder)
    assert "huggingface = [" in (ROOT / "pyproject.toml").read_text()


def test_the_files_are_the_fingerprint(folder):
    before = sources.data_fingerprint(config_of(folder))
    assert sorted(before) == ["test.jsonl", "train.jsonl"]
    (folder / ".cache").mkdir()
    (folder / ".cache/lock").touch()
    (folder / "load.py").touch()
    assert sources.data_fingerprint(config_of(folder)) == before
    (folder / "train.jsonl").write_text("{}")
    assert sources.data_fingerprint(config_of(folder)) != before
    assert sources.data_root(config_of(folder).data) == folder


def test_a_hub_id_needs_allow_network():
    match = r"data\.huggingface\.name=organisation/name: .*\n.*add data\.allow_network=true"
    with pytest.raises(ConfigError, match=match):
        sources.data_fingerprint(config_of("organisation/name"))


def test_a_hub_id_is_fetched_by_its_revision(folder, monkeypatch):
    asked = []

    def download(*request):
        asked.append(request)
        return folder

    monkeypatch.setattr("pipeline.external.sources.download", download)
    config = config_of("organisation/name", allow_network=True)
    config.data.huggingface.revision = "v2"
    assert sorted(sources.data_fingerprint(config)) == ["test.jsonl", "train.jsonl"]
    assert asked == [("dataset", "organisation/name", "v2", ["*"])]


def test_a_name_that_is_neither_folder_nor_hub_id():
    with pytest.raises(DataError, match=r"name=nowhere: there is no such folder .*\nGive a folder"):
        sources.dataset_folder(config_of("nowhere").data)


def test_a_row_that_is_too_long_is_a_bad_row(folder, monkeypatch):
    rows = [{"text": "a" * 50}, {"text": "a"}]
    monkeypatch.setattr(DatasetRows, "rows", lambda self: iter(rows))
    long, short = DatasetRows("the set", folder, None, "train", Splitter(0.0, 0.0), 40).read(
        Counter()
    )
    assert str(long.error) == "the row is longer than data.max_line_bytes=40"
    assert short.record.content.text == "a"


def test_keys_that_a_table_adds_are_dropped():
    row = {"a": {"b": 1, "c": None}, "d": [{"e": None}, None], "f": None}
    assert without_nulls(row) == {"a": {"b": 1}, "d": [{}, None]}
