"""External files: found, fingerprinted, refused when they are no longer the same."""

import os

import pytest
from omegaconf import OmegaConf

from pipeline import files
from pipeline.errors import ConfigError, DataError, ModelError, PipelineError
from pipeline.external import inputs


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Let paths be relative to a folder of this test, with a model and some rows in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    model = tmp_path / "llama"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "run_me.py"):
        (model / name).write_text(name)
    rows = tmp_path / "rows"
    rows.mkdir()
    for name in ("b.jsonl", "a.jsonl", "notes.txt"):
        (rows / name).write_text(name)
    return tmp_path


def config_of(data="rows", model="llama", fingerprints=None):
    source = "jsonl" if data else "conflicts"
    return OmegaConf.create(
        {
            "data": {"source": source, "path": data, "chat_template": None},
            "model": {"source": model},
            "train": {"init_from": None},
            "inputs": fingerprints or dict.fromkeys(inputs.PARTS),
        }
    )


def fingerprinted(**named):
    config = config_of(**named)
    return config_of(**named, fingerprints=inputs.fingerprints(config))


def test_each_part_has_the_files_that_its_stage_reads():
    found = inputs.fingerprints(config_of())
    assert {part: sorted(files) for part, files in found.items()} == {
        "data": ["a.jsonl", "b.jsonl"],
        "tokenizer": ["config.json", "tokenizer.json"],
        "model": ["config.json", "model.safetensors"],
        "init_from": [],
    }
    assert found["data"]["a.jsonl"]["size"] == len("a.jsonl")
    assert len(found["data"]["a.jsonl"]["sha256"]) == 64


def test_templates_by_name_are_files_of_the_tokenizer(root):
    more = root / "llama/additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("{{ tools }}")
    (more / "notes.txt").write_text("no template")
    found = inputs.fingerprints(config_of())
    name = "additional_chat_templates/tool_use.jinja"
    assert sorted(found["tokenizer"]) == [name, "config.json", "tokenizer.json"]
    assert name not in found["model"]
    (more / "rag.jinja").symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match=r"  rag\.jinja: leads out of the folder, to /etc/passwd"):
        inputs.model_folder("llama")


@pytest.mark.parametrize("model", ["scratch", "organisation/name"])
def test_what_is_no_file_has_no_fingerprint(model):
    assert inputs.fingerprints(config_of(data=None, model=model)) == {
        "data": {},
        "tokenizer": {},
        "model": {},
        "init_from": {},
    }


def test_a_fingerprint_does_not_depend_on_where_the_files_lie(root):
    before = inputs.fingerprints(config_of())
    (root / "rows").rename(root / "moved")
    assert inputs.fingerprints(config_of(data="moved")) == before


@pytest.mark.parametrize(
    ("source", "is_hub_id"),
    [
        ("scratch", False),
        ("llama", False),
        ("organisation/name", True),
        ("./llama", False),
        ("../llama", False),
        ("~/llama", False),
        ("/llama", False),
        ("llama/", False),
        ("a/b/c", False),
        ("rows/deep", False),
    ],
)
def test_hub_ids_are_told_from_folders(root, source, is_hub_id):
    (root / "rows/deep").mkdir()
    assert inputs.is_hub_id(source) == is_hub_id


def test_paths_are_those_of_the_repository_or_absolute(root, monkeypatch):
    assert inputs.external("rows") == root / "rows"
    assert inputs.external(str(root / "rows")) == root / "rows"
    monkeypatch.delenv("DVC_ROOT")
    assert inputs.external("rows") == files.ROOT / "rows"
    monkeypatch.setenv("HOME", str(root))
    assert inputs.external("~/rows") == root / "rows"


@pytest.mark.parametrize(
    ("path", "reason"),
    [("nowhere", "there is no such file or folder"), ("llama", r"the folder has no \*\.jsonl")],
)
def test_missing_data_are_refused(path, reason):
    with pytest.raises(DataError, match=rf"data\.path=.*/{path}: {reason}\.\nGive a file"):
        inputs.fingerprints(config_of(data=path))


def test_a_missing_model_is_refused():
    match = r"model\.source=nowhere: there is no such folder \(looked at .*\nGive a Hugging Face"
    with pytest.raises(ModelError, match=match):
        inputs.fingerprints(config_of(model="nowhere"))


def test_a_folder_that_is_no_model_is_refused():
    match = r"model\.source=rows: the folder has no config\.json\.\nGive the folder that holds"
    with pytest.raises(ModelError, match=match):
        inputs.model_folder("rows")


@pytest.mark.parametrize("name", [*inputs.SETTINGS, inputs.INDEX])
@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "inner"])
def test_a_link_out_of_a_model_folder_is_refused(root, name, target):
    (root / "secret").write_text("mine")
    (root / "llama/inner").symlink_to("../secret")
    (root / "llama" / name).unlink(missing_ok=True)
    (root / "llama" / name).symlink_to(target)
    there = "/etc/passwd" if target == "/etc/passwd" else root / "secret"
    message = (
        rf"llama: these files .*\n  {name}: leads out of the folder, to {there}\nPut the files"
    )
    with pytest.raises(ModelError, match=message):
        inputs.model_folder("llama")
    for part in ("tokenizer", "model"):
        with pytest.raises(ModelError, match="leads out of the folder"):
            inputs.fingerprints(config_of()) if part == "model" else inputs.PARTS[part](config_of())


def test_every_file_of_a_model_folder_that_cannot_be_used_is_named(root):
    (root / "llama/merges.txt").symlink_to("/etc/passwd")
    (root / "llama/vocab.json").symlink_to("nowhere")
    (root / "llama/generation_config.json").mkdir()
    (root / "llama/inner.json").write_text("{}")
    (root / "llama/added_tokens.json").symlink_to("inner.json")  # stays inside
    with pytest.raises(ModelError) as caught:
        inputs.model_folder("llama")
    assert str(caught.value).splitlines()[1:4] == [
        "  generation_config.json: is a folder or a device",
        "  vocab.json: is missing",
        "  merges.txt: leads out of the folder, to /etc/passwd",
    ]


def test_a_pipe_in_place_of_a_file_is_refused_at_once(root):
    os.mkfifo(root / "llama/merges.txt")
    with pytest.raises(ModelError, match=r"merges\.txt: is a folder or a device"):
        inputs.model_folder("llama")


def test_the_links_of_a_hub_cache_are_followed(root):
    cache = root / "models--organisation--name"
    snapshot = cache / "snapshots/0123abc"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for name in ("config.json", "tokenizer.json", "merges.txt"):
        (cache / "blobs" / name[:3]).write_text(name)
        (snapshot / name).symlink_to(f"../../blobs/{name[:3]}")
    assert inputs.model_folder(str(snapshot)) == snapshot
    (root / "linked").symlink_to(snapshot)
    assert inputs.model_folder("linked") == root / "linked"
    (snapshot / "vocab.json").symlink_to("../../secret")
    with pytest.raises(ModelError, match=r"vocab\.json: leads out of the folder"):
        inputs.model_folder(str(snapshot))


def test_names_that_are_no_utf8_are_refused(root):
    name = os.fsdecode(b"caf\xe9")
    (root / "rows" / f"{name}.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"names are no UTF-8:\n  .*/caf\\udce9\.jsonl\nRename"):
        inputs.fingerprints(config_of())
    (root / "llama").rename(root / name)
    (root / "llama").symlink_to(name)
    with pytest.raises(ConfigError, match=r"These names are no UTF-8:\n  .*/caf\\udce9\nRename"):
        inputs.model_folder("llama")


def test_a_gguf_file_is_fingerprinted_with_the_code_that_converts_it(root, monkeypatch):
    (root / "model.GGUF").write_bytes(b"GGUF")
    config = config_of(model="model.GGUF")
    found = inputs.PARTS["model"](config)
    assert found == inputs.PARTS["tokenizer"](config)
    assert found["model.GGUF"] == {"size": 4, "sha256": files.sha256_bytes(b"GGUF")}
    assert found["converter"] == {
        "sha256": files.sha256_path(files.ROOT / "pipeline/external/gguf")
    }
    monkeypatch.setattr(inputs, "sha256_path", lambda path: "other")
    with pytest.raises(PipelineError, match="converter: differs"):
        inputs.check_unchanged(
            config_of(model="model.GGUF", fingerprints={"model": found}), "model"
        )


@pytest.mark.parametrize("part", ["tokenizer", "model", None])
def test_a_missing_gguf_file_is_no_hub_id_and_is_refused_with_the_remedy(part):
    match = r"model.source=.*org/model.gguf: there is no such file.\n`make smollm2` fetches"
    with pytest.raises(ModelError, match=match):
        if part:
            inputs.PARTS[part](config_of(model="org/model.gguf"))
        else:
            inputs.model_folder("org/model.gguf")


def test_a_hub_id_needs_allow_network():
    inputs.require_network("organisation/name", allow_network=True)
    match = r"model\.source=organisation/name: .*\n?.*add model\.allow_network=true"
    with pytest.raises(ConfigError, match=match):
        inputs.require_network("organisation/name", allow_network=False)


# Changes


@pytest.mark.parametrize("part", inputs.PARTS)
def test_unchanged_files_pass(part):
    inputs.check_unchanged(fingerprinted(), part)


def test_by_hand_there_is_nothing_to_compare_with(root):
    config = config_of()
    (root / "rows/a.jsonl").write_text("changed")
    inputs.check_unchanged(config, "data", "tokenizer", "model")


def test_all_changes_are_told_at_once_with_the_remedy(root):
    config = fingerprinted()
    (root / "rows/a.jsonl").write_text("changed")
    (root / "rows/b.jsonl").unlink()
    (root / "rows/c.jsonl").touch()
    (root / "llama/model.safetensors").write_text("changed too")
    with pytest.raises(PipelineError) as caught:
        inputs.check_unchanged(config, "data", "model")
    assert str(caught.value).splitlines() == [
        "External files changed since params.yaml was written:",
        "  a.jsonl: differs",
        "  b.jsonl: is gone",
        "  c.jsonl: is new",
        "  model.safetensors: differs",
        inputs.REMEDY,
    ]
    inputs.check_unchanged(config, "tokenizer")


def test_the_same_size_does_not_hide_a_change(root):
    config = fingerprinted()
    path = root / "rows/a.jsonl"
    path.write_text("A.jsonl")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    with pytest.raises(PipelineError, match=r"a\.jsonl: differs"):
        inputs.check_unchanged(config, "data")
