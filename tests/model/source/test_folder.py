"""Which files are taken for a model's weights, and which are refused before anything is loaded."""

import json
import os
import pickle
import time
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.errors import ModelError
from pipeline.model.source.folder import (
    INDEX,
    MAX_HEADER_BYTES,
    Tensor,
    read_config,
    read_header,
    read_weight_files,
)

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(4, dtype=np.float16)


def write_index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def raw_safetensors(path, header, data=b"", length=None):
    """Write a file with a header as it is given, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)
    return path


def entry(start, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.fixture
def sharded(tmp_path):
    """A folder with two shards and their index."""
    save_file({"a": A}, tmp_path / "model-1.safetensors")
    save_file({"b": B}, tmp_path / "model-2.safetensors")
    write_index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    return tmp_path


def test_a_single_file_is_listed_with_types_and_shapes(tmp_path):
    save_file({"b": B, "a": A}, tmp_path / "model.safetensors")
    [file] = read_weight_files(tmp_path)
    assert file.path == tmp_path / "model.safetensors"
    assert file.tensors == (Tensor("a", "F32", (2, 3)), Tensor("b", "F16", (4,)))


def test_the_shards_of_an_index_are_listed_once_each(sharded):
    save_file({"c": A}, sharded / "stray.safetensors")  # not in the index: no part of the model
    files = read_weight_files(sharded)
    assert [file.path.name for file in files] == ["model-1.safetensors", "model-2.safetensors"]
    assert [tensor.name for file in files for tensor in file.tensors] == ["a", "b"]


def test_shards_without_an_index_are_all_taken(sharded):
    (sharded / INDEX).unlink()
    assert [file.path.name for file in read_weight_files(sharded)] == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]


def test_the_single_file_goes_before_others_beside_it(tmp_path):
    save_file({"a": A}, tmp_path / "model.safetensors")
    save_file({"a": A}, tmp_path / "consolidated.safetensors")
    assert [file.path.name for file in read_weight_files(tmp_path)] == ["model.safetensors"]


# What config.json may say


def test_a_config_is_read_as_it_is(model_folder, tiny_config):
    assert read_config(model_folder) == tiny_config


def test_facts_that_cannot_be_are_named_at_once(model_folder, tiny_config):
    wrong = {"vocab_size": "64", "rope_theta": 0, "rms_norm_eps": float("nan")}
    (model_folder / "config.json").write_text(json.dumps(tiny_config | wrong))
    with pytest.raises(ModelError) as caught:
        read_config(model_folder)
    assert str(caught.value).splitlines() == [
        f"{model_folder / 'config.json'}: these values cannot be used:",
        '  vocab_size: is "64"; must be a whole number from 1 to 16,777,216',
        "  rope_theta: is 0; must be a number above 0",
        "  rms_norm_eps: is NaN; must be a number above 0 and below 1",
        "Use the config.json that the model was saved with.",
    ]


def test_facts_of_a_language_model_among_several_modalities_are_checked_too(tmp_path):
    text = {"vocab_size": "64", "rope_parameters": {"full_attention": {"rope_theta": 0}}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    with pytest.raises(ModelError) as caught:
        read_config(tmp_path)
    assert str(caught.value).splitlines()[1:3] == [
        '  text_config.vocab_size: is "64"; must be a whole number from 1 to 16,777,216',
        "  text_config.rope_parameters.full_attention.rope_theta: is 0; must be a number above 0",
    ]


def test_a_config_is_read_in_the_words_of_mlx_lm(model_folder, tiny_config):
    del tiny_config["rope_theta"]
    newer = tiny_config | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}
    (model_folder / "config.json").write_text(json.dumps(newer))
    assert read_config(model_folder)["rope_theta"] == 5e4


@pytest.mark.parametrize("text", ["{", "[" * 100_000, b"\xff\xfe"])
def test_a_config_that_is_no_json(tmp_path, text):
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json: is no (JSON|UTF-8) .*\n.*Give the folder"):
        read_config(tmp_path)


@pytest.mark.parametrize("missing", ["config", "folder"])
def test_a_missing_config(tmp_path, missing):
    folder = tmp_path if missing == "config" else tmp_path / "nowhere"
    with pytest.raises(ModelError, match=r"config\.json: there is no such file\.\nGive the"):
        read_config(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"has no `model_type`.*\nUse the config\.json that"),
        ("[]", r"holds \[\]; must hold an object\.\nGive the folder"),
        ('"llama"', r'holds "llama"; must hold an object\.\nGive the folder'),
        ('{"model_type": 3}', r"these values .*\n  model_type: is 3; must be text\nUse the"),
    ],
)
def test_a_config_without_an_architecture(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        read_config(tmp_path)


def test_a_config_that_asks_to_run_its_own_code(tmp_path):
    config = {"model_type": "llama", "model_file": "evil.py"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')")
    with pytest.raises(ModelError, match=r"asks to run evil\.py.*that is never done"):
        read_config(tmp_path)


# Files that are no safetensors


def test_a_folder_of_pickles_only(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "old.ckpt").write_bytes(b"x")
    message = r"there is no \*\.safetensors; it holds old\.ckpt, pytorch_model\.bin\.\n.*Save the"
    with pytest.raises(ModelError, match=message):
        read_weight_files(tmp_path)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(ModelError, match=r"no \*\.safetensors; it holds no weights at all"):
        read_weight_files(tmp_path)


class Bomb:
    """A pickle of it would say so if it were ever opened as one."""

    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_under_a_safetensors_name(tmp_path, protocol, capsys):
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(ModelError, match=r"model\.safetensors: is a pickle"):
        read_weight_files(tmp_path)
    assert "unpickled" not in capsys.readouterr().out


def test_a_zip_under_a_safetensors_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    with pytest.raises(ModelError, match=r"is a zip archive, as PyTorch's pickles are"):
        read_weight_files(tmp_path)


def test_a_gguf_under_a_safetensors_name(tmp_path):
    start = b"GGUF" + (3).to_bytes(4, "little") + ord("{").to_bytes(8, "little")
    (tmp_path / "model.safetensors").write_bytes(start + bytes(64))
    with pytest.raises(ModelError, match="is a GGUF file"):
        read_weight_files(tmp_path)


def test_a_git_lfs_pointer(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(ModelError, match="is a Git LFS pointer, not the file itself"):
        read_weight_files(tmp_path)


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580, 0x10280])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path, length):
    bare = json.dumps({"a": entry(0, 4)}).encode()
    raw_safetensors(tmp_path / "model.safetensors", bare.ljust(length), bytes(4))
    assert (tmp_path / "model.safetensors").read_bytes()[:1] == b"\x80"
    assert read_weight_files(tmp_path)[0].tensors == (Tensor("a", "F32", (1,)),)


# Damaged and malicious files


@pytest.mark.parametrize("kept", [0, 4, 20, -1])
def test_a_truncated_file(tmp_path, kept):
    path = tmp_path / "model.safetensors"
    save_file({"a": A}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"is no readable safetensors file .*\n.*Fetch it again"):
        read_weight_files(tmp_path)


MALICIOUS = {
    "overlap": {"a": entry(0, 4), "b": entry(0, 4)},
    "partial overlap": {"a": entry(0, 8, (2,)), "b": entry(4, 12, (2,))},
    "hole": {"a": entry(0, 4), "b": entry(8, 12)},
    "negative offset": {"a": entry(-4, 0)},
    "negative shape": {"a": entry(0, 4, (-1,))},
    "backwards": {"a": entry(4, 0)},
    "past the end": {"a": entry(0, 1 << 40, (1 << 38,))},
    "shape overflows": {"a": entry(0, 4, (1 << 62, 1 << 62))},
    "shape is another size": {"a": entry(0, 4, (7,))},
    "unknown type": {"a": entry(0, 4, dtype="PYTHON")},
    "no entry": {"a": 1},
    "no object": [1],
    "no json": b"{" * 64,
    "deep json": b'{"a":' + b"[" * 100_000,
}


@pytest.mark.parametrize("kind", MALICIOUS)
def test_a_header_that_lies_is_refused_quickly(tmp_path, kind):
    path = raw_safetensors(tmp_path / "model.safetensors", MALICIOUS[kind], bytes(16))
    started = time.perf_counter()
    with pytest.raises(ModelError, match="is no readable safetensors file"):
        read_header(path)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, MAX_HEADER_BYTES + 1, 1 << 20])
def test_a_header_of_false_length_is_refused_quickly(tmp_path, length):
    header = {"a": entry(0, 4)}
    raw_safetensors(tmp_path / "model.safetensors", header, bytes(4), length)
    started = time.perf_counter()
    with pytest.raises(ModelError, match="is no readable safetensors file"):
        read_weight_files(tmp_path)
    assert time.perf_counter() - started < 1


# Paths


@pytest.mark.parametrize(
    "name", ["../../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", "x.bin"]
)
def test_an_index_that_names_another_place(sharded, name):
    write_index(sharded, {"a": "model-1.safetensors", "b": name})
    message = rf"names files that are not \*\.safetensors in this very folder:\n  b: {name}\nUse an"
    with pytest.raises(ModelError, match=message):
        read_weight_files(sharded)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"index\.json: is no JSON"),
        ("{}", r"\n  weight_map: is missing"),
        ('{"weight_map": 3}', r"\n  weight_map: is 3; must be an object"),
        ('{"weight_map": {"a": 3}}', r"\n  weight_map\.a: is 3; must be text"),
        ("[]", r"index\.json: holds \[\]; must hold an object"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_an_index_that_cannot_be_read(sharded, text, message):
    (sharded / INDEX).write_text(text)
    with pytest.raises(ModelError, match=rf"{message}.*\nFetch the index again"):
        read_weight_files(sharded)


def test_a_link_out_of_the_folder(tmp_path):
    outside = tmp_path / "outside.safetensors"
    save_file({"a": A}, outside)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(ModelError, match=rf"leads out of the folder, to {outside}"):
        read_weight_files(folder)


def test_a_link_out_of_the_folder_that_an_index_names(sharded, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "x.safetensors"
    (sharded / "model-2.safetensors").rename(outside)
    (sharded / "model-2.safetensors").symlink_to(outside)
    with pytest.raises(ModelError, match=r"model-2\.safetensors: leads out of the folder"):
        read_weight_files(sharded)


def test_a_name_that_is_no_utf8(tmp_path):
    save_file({"a": A}, tmp_path / os.fsdecode(b"caf\xe9.safetensors"))
    with pytest.raises(ModelError, match=r"  caf\\udce9\.safetensors: its name is no UTF-8"):
        read_weight_files(tmp_path)


def test_a_link_to_a_link_out_of_the_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": A}, tmp_path / "secret")
    (folder / "inner").symlink_to(tmp_path / "secret")
    (folder / "model.safetensors").symlink_to("inner")
    with pytest.raises(ModelError, match="leads out of the folder"):
        read_weight_files(folder)


def hub_snapshot(root, target):
    """Lay out a hub cache in which the weights are a link to `target`."""
    cache = root / "models--someone--something"
    snapshot = cache / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    save_file({"a": A}, root / target)
    (snapshot / "model.safetensors").symlink_to(root / target)
    return snapshot


def test_a_link_inside_a_hub_cache_is_accepted(tmp_path):
    snapshot = hub_snapshot(tmp_path, "models--someone--something/blobs/fedc")
    assert read_weight_files(snapshot)[0].tensors == (Tensor("a", "F32", (2, 3)),)


def test_a_link_out_of_a_hub_cache(tmp_path):
    with pytest.raises(ModelError, match="leads out of the folder"):
        read_weight_files(hub_snapshot(tmp_path, "elsewhere"))


def test_a_folder_reached_through_a_link_is_accepted(tmp_path, sharded):
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(sharded)
    assert len(read_weight_files(link)) == 2


# Files that do not agree


def test_a_missing_shard(sharded):
    (sharded / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"these files cannot be used:\n  model-2.*: is missing"):
        read_weight_files(sharded)


def test_all_unusable_files_are_named_at_once(sharded):
    (sharded / "model-1.safetensors").write_bytes(pickle.dumps({}, 4))
    (sharded / "model-2.safetensors").unlink()
    message = r"model-1\.safetensors: is a pickle\n  model-2\.safetensors: is missing"
    with pytest.raises(ModelError, match=message):
        read_weight_files(sharded)


def test_a_broken_link_is_a_missing_file(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(ModelError, match=r"model\.safetensors: is missing"):
        read_weight_files(tmp_path)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_tensor_in_two_files(sharded, indexed):
    save_file({"b": B, "a": A}, sharded / "model-2.safetensors")
    if not indexed:
        (sharded / INDEX).unlink()
    message = r"do not agree on where.*\n  a: in model-1.* and in model-2(.*\n)+Fetch the model"
    with pytest.raises(ModelError, match=message):
        read_weight_files(sharded)


def test_an_index_that_disagrees_with_its_files(sharded):
    second = "model-2.safetensors"
    write_index(sharded, {"a": second, "b": second, "c": "model-1.safetensors"})
    message = (
        r"  a: the index says model-2\.safetensors, which does not hold it\n"
        r"  c: the index says model-1\.safetensors, which does not hold it"
    )
    with pytest.raises(ModelError, match=message):
        read_weight_files(sharded)


def test_a_tensor_that_the_index_forgot(sharded):
    write_index(sharded, {"a": "model-1.safetensors"})
    [file] = read_weight_files(sharded)  # the index decides: `b` is no part of this model
    assert [tensor.name for tensor in file.tensors] == ["a"]
