"""One table of sources: what they need, what they read, and how; new ones are fingerprinted."""

import pytest
from omegaconf import OmegaConf

from pipeline.config import rules
from pipeline.data.sources.table import READERS
from pipeline.errors import ConfigError, DataError
from pipeline.external import sources
from pipeline.external.sources import SOURCES, Source, jsonl_files
from stages.params import composed


def test_every_source_has_a_reader_and_can_be_chosen():
    assert READERS.keys() == SOURCES.keys()
    (choices,) = (
        field.metadata["choices"] for name, field in rules.leaves() if name == "data.source"
    )
    assert set(choices) == SOURCES.keys()


@pytest.mark.parametrize("name", SOURCES)
def test_what_a_source_needs_is_asked_for(name):
    needs = SOURCES[name].needs
    if needs is None:
        assert composed([f"data={name}"]).data.source == name
        return
    wanted = rf"data\.{needs.partition('=')[0]} has no value; give one"
    with pytest.raises(ConfigError, match=wanted):
        composed([f"data={name}"])


def test_a_source_without_its_path_is_refused():
    with pytest.raises(ConfigError, match=r"data\.source=jsonl needs data\.path=FILE_OR_FOLDER"):
        composed(["data=jsonl", "data.path=null"])


def test_a_new_source_is_fingerprinted_by_the_files_of_its_path(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(SOURCES, "papers", Source())
    rows = tmp_path / "rows"
    (rows / "deep/.git").mkdir(parents=True)
    for name in ("b.pdf", "deep/a.py", ".hidden", "deep/.git/config"):
        (rows / name).write_text(name)
    config = OmegaConf.create(
        {"data": {"source": "papers", "path": str(rows), "chat_template": None}}
    )
    before = sources.data_fingerprint(config)
    assert sorted(before) == ["b.pdf", "deep/a.py"]
    (rows / "b.pdf").write_text("changed")
    assert sources.data_fingerprint(config) != before
    config.data.path = str(rows / "b.pdf")
    assert sorted(sources.data_fingerprint(config)) == ["b.pdf"]
    config.data.path = str(rows / "deep/.git")
    assert sorted(sources.data_fingerprint(config)) == ["config"]
    (rows / "deep/.git/config").unlink()
    with pytest.raises(DataError, match=r"data\.path=.*: the folder has no files\.\nGive a file"):
        sources.data_fingerprint(config)


def test_a_chat_template_is_fingerprinted_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    template = tmp_path / "own.jinja"
    template.write_text("one")
    config = composed([f"data.chat_template={template}"])
    before = sources.data_fingerprint(config)
    assert list(before) == ["data.chat_template"]
    template.write_text("two")
    assert sources.data_fingerprint(config) != before
    template.unlink()
    with pytest.raises(
        ConfigError, match=r"data\.chat_template=.*: there is no such file \(looked"
    ):
        sources.data_fingerprint(config)


def test_files_of_a_folder_come_by_name(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "notes.txt"):
        (tmp_path / name).touch()
    assert jsonl_files(tmp_path) == [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert jsonl_files(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


def test_what_has_no_files(tmp_path):
    with pytest.raises(DataError, match=r"data.path=.*: the folder has no \*.jsonl.\nGive a file"):
        jsonl_files(tmp_path)
    with pytest.raises(DataError, match=r"data.path=.*nowhere: there is no such file or folder"):
        jsonl_files(tmp_path / "nowhere")
    (tmp_path / "rows.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"rows.jsonl is not a file.\nRename or remove"):
        jsonl_files(tmp_path)
