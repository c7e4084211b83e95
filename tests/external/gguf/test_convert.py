"""GGUF files as Hugging Face folders: values, names, order, config; made once; read by others."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file

from pipeline.errors import ModelError
from pipeline.external.gguf import convert as module
from pipeline.external.gguf.convert import KINDS, convert, converted
from pipeline.model.network.base import load_base, write_manifest
from tests.support.gguf_files import HEADS, KV_HEADS, WIDTH, interleaved, weights

ARCHITECTURES = ["llama", "qwen2", "qwen3"]
WRITTEN = [kind for kind in KINDS if not kind.endswith("_K")]
"""The package has no packer for the others."""


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Keep converted folders in a folder of this test."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "models/.converted"


@pytest.mark.parametrize("kind", WRITTEN)
def test_numbers_are_those_that_were_packed(gguf_file, folder, words, kind):
    arrays = weights("qwen2", len(words["gpt-2"]["tokens"]))
    convert(gguf_file("qwen2", kind=kind, arrays=arrays), folder)
    found = load_file(folder / "model.safetensors")
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    packed = GGMLQuantizationType[kind]
    for name in ("blk.0.ffn_down.weight", "blk.1.attn_q.weight"):
        theirs = name.replace("blk", "model.layers").replace("ffn_down", "mlp.down_proj")
        theirs = theirs.replace("attn_q", "self_attn.q_proj")
        wanted = arrays[name]
        if kind != "F32":
            wanted = dequantize(quantize(wanted, packed), packed)
        np.testing.assert_array_equal(found[theirs], wanted)
    np.testing.assert_array_equal(found["model.norm.weight"], arrays["output_norm.weight"])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith("_K")])
def test_numbers_of_super_blocks_are_those_of_the_package(gguf_file, folder, words, kind):
    packed = GGMLQuantizationType[kind]
    rows = np.random.default_rng(0).integers(0, 60, (WIDTH, 512 // 256 * PER_BLOCK[kind]), np.uint8)

    def change(writer):
        writer.add_tensor("blk.0.ffn_down.weight", rows, raw_dtype=packed)

    arrays = weights("qwen2", len(words["gpt-2"]["tokens"]))
    del arrays["blk.0.ffn_down.weight"]
    convert(gguf_file("qwen2", arrays=arrays, change=change), folder)
    found = load_file(folder / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    np.testing.assert_array_equal(found, dequantize(rows, packed))
    assert found.shape == (WIDTH, 512)


PER_BLOCK = {"Q4_K": 144, "Q5_K": 176, "Q6_K": 210}


@pytest.mark.parametrize("arch", ["llama", "mistral"])
def test_rows_of_queries_and_keys_of_llama_are_put_back(gguf_file, folder, words, arch):
    arrays = weights("llama", len(words["gpt-2"]["tokens"]))
    convert(gguf_file(arch, arrays=arrays), folder)
    found = load_file(folder / "model.safetensors")
    for name, heads in (("q", HEADS), ("k", KV_HEADS)):
        layer = found[f"model.layers.1.self_attn.{name}_proj.weight"]
        assert not np.array_equal(layer, arrays[f"blk.1.attn_{name}.weight"])
        np.testing.assert_array_equal(
            interleaved(layer, heads), arrays[f"blk.1.attn_{name}.weight"]
        )
    np.testing.assert_array_equal(
        found["model.layers.1.self_attn.v_proj.weight"], arrays["blk.1.attn_v.weight"]
    )


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_the_pipeline_loads_it(gguf_file, folder, tmp_path, words, arch, tied):
    arrays = weights(arch, len(words["gpt-2"]["tokens"]), tied)
    convert(gguf_file(arch, arrays=arrays), folder)
    (tmp_path / "base").mkdir()
    write_manifest(tmp_path / "base", folder, "model.gguf", "")
    manifest = json.loads((tmp_path / "base/manifest.json").read_text())
    manifest["source"] = "elsewhere"  # it lies in a folder that this test has made
    (tmp_path / "base/manifest.json").write_text(json.dumps(manifest))
    model = load_base(tmp_path / "base", "float32").model
    logits = model(mx.array([[1, 5, 9, 2]]))
    assert logits.shape == (1, 4, len(words["gpt-2"]["tokens"]))
    assert bool(mx.isfinite(logits).all())
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is tied
    assert (config["rope_theta"], config["rms_norm_eps"]) == (50_000.0, 1e-5)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_transformers_reads_the_same_model(gguf_file, folder, words, readers, arch):
    """It has a reader of GGUF files, which takes the heads of Qwen3 to be 128 wide."""
    torch, transformers = readers("torch"), readers("transformers")
    arrays = weights(arch, len(words["gpt-2"]["tokens"]), head=128 if arch == "qwen3" else None)
    path = gguf_file(arch, kind="Q8_0", arrays=arrays)
    convert(path, folder)
    ours = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    one, other = ours.state_dict(), theirs.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    ids = torch.tensor([[1, 5, 9, 2, 7]])
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_large_models_are_written_in_several_files(gguf_file, folder, monkeypatch):
    whole = gguf_file()
    convert(whole, folder)
    one = load_file(folder / "model.safetensors")
    shutil.rmtree(folder)
    folder.mkdir()
    monkeypatch.setattr(module, "MAX_SHARD_BYTES", 1_000_000)
    convert(whole, folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    for name, file in index["weight_map"].items():
        np.testing.assert_array_equal(load_file(folder / file)[name], one[name])
    assert index["weight_map"].keys() == one.keys()


def test_it_is_converted_once_and_again_where_it_is_damaged_or_gone(gguf_file, kept, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "convert", lambda *args: calls.append(args) or convert(*args))
    path = gguf_file()
    folder = converted(path)
    assert folder.parent == kept
    assert converted(path) == folder
    assert len(calls) == 1
    (folder / "config.json").write_text("{}")
    converted(path)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    shutil.rmtree(folder)
    converted(path)
    assert len(calls) == 3
    assert (folder / "model.safetensors").is_file()


def test_other_code_converts_again(gguf_file, kept, monkeypatch):
    path = gguf_file()
    converted(path)
    monkeypatch.setattr(module, "converter_sha256", lambda: "other")
    calls = []
    monkeypatch.setattr(module, "convert", lambda *args: calls.append(args) or convert(*args))
    converted(path)
    assert len(calls) == 1


def test_a_conversion_that_fails_leaves_nothing(gguf_file, kept):
    with pytest.raises(ModelError):
        converted(gguf_file("gemma2"))
    assert [file.suffix for file in kept.iterdir()] == [".lock"]


def test_a_base_makes_the_weights_again_where_they_are_gone(gguf_file, kept, tmp_path):
    base, path = tmp_path / "base", gguf_file()
    base.mkdir()
    write_manifest(base, converted(path), str(path), "")
    shutil.rmtree(kept)
    logits = load_base(base, "float32").model(mx.array([[1, 5, 9, 2]]))
    assert bool(mx.isfinite(logits).all())
    assert not list(base.glob("*.safetensors"))
    shutil.rmtree(kept)
    path.unlink()
    with pytest.raises(ModelError, match="there is no such file"):
        load_base(base, "float32")
