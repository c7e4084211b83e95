"""Where the trained weights lie that a run starts from, and their hash."""

import shutil

import pytest
from omegaconf import OmegaConf

from pipeline.errors import ConfigError
from pipeline.external.initial import initial_fingerprint, initial_folder, initial_hash


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Let paths be relative to a folder of this test, with the run of a train stage in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    trained = tmp_path / "runs/first/models/trained"
    trained.mkdir(parents=True)
    for name in ("adapter_config.json", "adapters.safetensors", "SHA256SUMS"):
        (trained / name).write_text(name)
    return tmp_path


def config_of(init_from):
    return OmegaConf.create({"train": {"init_from": init_from}})


def test_a_run_and_the_folder_of_its_weights_are_the_same(root):
    trained = root / "runs/first/models/trained"
    assert initial_folder("runs/first") == initial_folder(str(trained)) == trained
    assert initial_hash("runs/first") == initial_hash(str(trained))


def test_the_hash_is_that_of_the_files_wherever_they_lie(root):
    before = initial_hash("runs/first")
    shutil.copytree(root / "runs/first/models/trained", root / "copy")
    (root / "copy/notes.txt").write_text("x")
    assert initial_hash("copy") == before
    for name in ("adapter_config.json", "adapters.safetensors"):
        (root / "copy" / name).write_text("other")
        assert initial_hash("copy") != before
        (root / "copy" / name).write_text(name)


def test_the_fingerprint_names_both_files():
    assert initial_fingerprint(config_of(None)) == {}
    found = initial_fingerprint(config_of("runs/first"))
    assert {name: facts["size"] for name, facts in found.items()} == {
        "adapter_config.json": 19,
        "adapters.safetensors": 20,
    }


@pytest.mark.parametrize("gone", ["adapter_config.json", "adapters.safetensors"])
def test_a_folder_without_trained_weights_is_refused_with_both_places(root, gone):
    (root / "runs/first/models/trained" / gone).unlink()
    match = r"init_from=runs/first: there are no trained weights .*runs/first and in .*/trained\)"
    with pytest.raises(ConfigError, match=match):
        initial_fingerprint(config_of("runs/first"))


@pytest.mark.parametrize("name", ["models/trained", "models/trained/best", "models/export/adapter"])
def test_what_the_graph_writes_itself_is_no_beginning_of_it(root, name):
    shutil.copytree(root / "runs/first/models/trained", root / name)
    with pytest.raises(ConfigError, match=f"init_from={name}: DVC deletes or rewrites this folder"):
        initial_fingerprint(config_of(name))
    assert initial_hash(name) == initial_hash("runs/first")  # by hand it may be
