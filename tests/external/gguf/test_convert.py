"""GGUF files as Hugging Face folders: values, names, order, config; made once; read by others."""

import json
import re
import shutil

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file

from pipeline.errors import ModelError
from pipeline.external.gguf import convert as module
from pipeline.external.gguf.architecture import llama3_factors, reordered
from pipeline.external.gguf.convert import KINDS, convert, converted
from pipeline.model.base import load_base, write_manifest
from tests.support.gguf_files import HEADS, KV_HEADS, WIDTH, weights

ARCHITECTURES = ["llama", "qwen2", "qwen3"]
WRITTEN = [kind for kind in KINDS if not kind.endswith("_K")]
"""The package has no packer for the others."""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Keep converted folders in a folder of this test."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "models/.converted"


def interleaved(values, num_heads):
    """Put rows into llama.cpp's order, as its converter does."""
    rows = values.shape[0]
    halves = values.reshape(num_heads, 2, rows // num_heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


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


def test_rows_of_queries_and_keys_of_llama_are_put_back(gguf_file, folder, words):
    arrays = weights("llama", len(words["gpt-2"]["tokens"]))
    convert(gguf_file(arrays=arrays), folder)
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


def test_a_bias_is_put_back_as_its_rows_are():
    bias = np.arange(8.0)
    assert reordered(bias, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert interleaved(reordered(bias, 2), 2).tolist() == bias.tolist()


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


def test_positions_of_llama_3_are_recognised(gguf_file, folder):
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    factors = llama3_factors(scaling, 50_000.0, WIDTH // HEADS // 2).astype(np.float32)
    convert(gguf_file(change=lambda w: w.add_tensor("rope_freqs.weight", factors)), folder)
    assert json.loads((folder / "config.json").read_text())["rope_scaling"] == scaling


def test_the_factors_of_llama_3_are_those_of_transformers(readers):
    torch, transformers = readers("torch"), readers("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = transformers.LlamaConfig(hidden_size=512, num_attention_heads=4, rope_scaling=scaling)
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1 / 500_000.0 ** (torch.arange(0, 128, 2).double() / 128)
    np.testing.assert_allclose(
        (plain / frequencies).numpy(), llama3_factors(scaling, 500_000.0, 64), rtol=1e-5
    )


def add_own_factors(writer):
    writer.add_tensor("rope_freqs.weight", np.linspace(1, 9, WIDTH // HEADS // 2, dtype=np.float32))


REFUSED = [
    (lambda w: w.add_tensor("blk.0.extra.weight", np.ones(4, np.float32)), "blk.0.extra.weight"),
    (lambda w: w.add_expert_count(8), "llama.expert_count=8"),
    (lambda w: w.add_rope_scaling_factor(0.0), None),
    (add_own_factors, "scales its positions by factors of its own"),
    (lambda w: w.add_string("llama.rope.scaling.type", "yarn"), "scales its positions as 'yarn'"),
    (
        lambda w: w.add_tensor("blk.9.attn_q.weight", np.ones(4, np.int8)),
        "blk.9.attn_q.weight: I8",
    ),
]


@pytest.mark.parametrize(("change", "problem"), REFUSED)
def test_what_cannot_be_carried_over_is_refused(gguf_file, folder, change, problem):
    path = gguf_file(change=change)
    if problem is None:
        convert(path, folder)
        return
    match = rf"(?s)model.source=.*model.gguf: .*{re.escape(problem)}.*Give "
    with pytest.raises(ModelError, match=match):
        convert(path, folder)
    assert not list(folder.glob("*.safetensors"))


@pytest.mark.parametrize("arch", ["gemma2", "clip"])
def test_another_architecture_is_refused_by_name(gguf_file, folder, arch):
    match = (
        rf"its architecture is '{arch}', and of GGUF files llama, mistral, qwen2, qwen3 are read"
    )
    with pytest.raises(ModelError, match=match):
        convert(gguf_file(arch), folder)


def test_a_number_that_is_none_is_refused(gguf_file, folder):
    def change(writer):
        del writer.kv_data[0]["llama.block_count"]
        writer.add_string("llama.block_count", "many")

    match = "llama.block_count is 'many', and a positive number is needed"
    with pytest.raises(ModelError, match=match):
        convert(gguf_file(change=change), folder)


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
