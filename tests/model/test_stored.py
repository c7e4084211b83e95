"""The weights of a fused model as the files of its base have them."""

import gc
import json

import pytest

from pipeline.device import mx, nn
from pipeline.errors import ModelError
from pipeline.files import read_json, write_json
from pipeline.model.network.base import open_base, write_manifest
from pipeline.model.network.tree import named_arrays
from pipeline.model.network.upstream import dequantize_model
from pipeline.model.quantize import write_quantized
from pipeline.model.scratch import initialize
from pipeline.model.source.folder import INDEX, read_weight_files
from pipeline.model.stored import StoredTensors, fused_notice
from tests.support.exports import apart

TYPES = mx.float32, mx.float16, mx.bfloat16
FREQUENCIES = "model.layers.0.self_attn.rotary_emb.inv_freq"
"""What mlx-lm drops."""
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2}


@pytest.fixture
def make_base(tmp_path, tiny_config):
    """Describe a model of given files; return models/base."""

    def make(files, **changes):
        source, base = tmp_path / "source", tmp_path / "base"
        source.mkdir()
        base.mkdir()
        places = {}
        for number, weights in enumerate(files, 1):
            name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
            name = name if len(files) > 1 else "model.safetensors"
            mx.save_safetensors(str(source / name), weights)
            places |= dict.fromkeys(weights, name)
        write_json(source / INDEX, {"metadata": {}, "weight_map": places})
        write_json(source / "config.json", {**tiny_config, **changes})
        write_manifest(base, source, "some/source", "hash")
        return base

    return make


@pytest.fixture
def tensors(tiny_config):
    """The tensors of a tiny model, each of another type than the one before."""
    found = named_arrays(initialize(tiny_config, seed=0).parameters())
    found[FREQUENCIES] = mx.arange(4.0)
    return {name: value.astype(TYPES[n % 3]) for n, (name, value) in enumerate(found.items())}


def opened(base):
    model = open_base(base, "float32").model
    dequantize_model(model)
    return model


def written(base, folder):
    """Write the tensors of a base as those of a fused model; return the folder."""
    folder.mkdir()
    write_json(folder / INDEX, StoredTensors(opened(base), base).write(folder))
    return folder


def headers(folder):
    return {file.path.name: file.tensors for file in read_weight_files(folder)}


@pytest.mark.parametrize("named", [None, "auto", "torch.bfloat16", "float32", "float16"])
def test_files_names_shapes_types_and_numbers_are_those_of_the_base(
    make_base, tensors, tmp_path, named
):
    """What config.json names as their type decides nothing."""
    names = list(tensors)
    halves = [{name: tensors[name] for name in part} for part in (names[::2], names[1::2])]
    base = make_base(halves, **({"torch_dtype": named} if named else {}))
    folder = written(base, tmp_path / "fused")
    assert headers(folder) == headers(tmp_path / "source")
    for number in (1, 2):
        name = f"model-{number:05d}-of-00002.safetensors"
        found, wanted = (mx.load(str(place / name)) for place in (folder, tmp_path / "source"))
        assert all(mx.array_equal(found[each], wanted[each]) for each in wanted)
    places, source = read_json(folder / INDEX), read_json(tmp_path / "source" / INDEX)
    assert places["weight_map"] == source["weight_map"]
    assert places["metadata"]["total_size"] == sum(value.nbytes for value in tensors.values())


def test_experts_are_apart_as_in_the_base(make_base, tiny_config, tmp_path):
    model = initialize({**tiny_config, **MIXTRAL}, seed=0)
    weights = apart(named_arrays(model.parameters()))
    assert "model.layers.1.block_sparse_moe.experts.2.w1.weight" in weights
    folder = written(make_base([weights], **MIXTRAL), tmp_path / "fused")
    assert headers(folder) == headers(tmp_path / "source")
    found = mx.load(str(folder / "model.safetensors"))
    assert all(mx.array_equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantised_base_gives_plain_tensors_in_the_type_of_its_scales(
    make_base, tiny_config, tmp_path, dtype
):
    tiny_config |= {"hidden_size": 64, "intermediate_size": 64}
    model = initialize(tiny_config, seed=0)
    model.set_dtype(getattr(mx, dtype))
    plain = {name: value.shape for name, value in named_arrays(model.parameters()).items()}
    nn.quantize(model, group_size=32, bits=4)
    packing = {"quantization": {"group_size": 32, "bits": 4}}
    base = make_base([named_arrays(model.parameters())], **packing)
    folder = written(base, tmp_path / "fused")
    found = mx.load(str(folder / "model.safetensors"))
    assert {name: value.shape for name, value in found.items()} == plain
    assert {value.dtype for value in found.values()} == {getattr(mx, dtype)}


def quantised(tmp_path, config, weights):
    """Quantise a model of given tensors; return models/base."""
    source, base = tmp_path / "source", tmp_path / "base"
    for folder in (source, base):
        folder.mkdir()
    mx.save_safetensors(str(source / "model.safetensors"), weights)
    write_json(source / "config.json", config)
    write_quantized(source, base, bits=4, group_size=32)
    write_manifest(base, base, "some/source", "hash", source)
    return base


def test_what_is_quantised_here_is_fused_by_the_names_and_types_it_had(tmp_path, tiny_config):
    config = {**tiny_config, **MIXTRAL, "hidden_size": 64, "intermediate_size": 64}
    weights = apart(named_arrays(initialize(config, seed=0).parameters()))
    weights = {name: value.astype(TYPES[n % 3]) for n, (name, value) in enumerate(weights.items())}
    folder = written(quantised(tmp_path, config, weights), tmp_path / "fused")
    assert headers(folder) == headers(tmp_path / "source")
    found = mx.load(str(folder / "model.safetensors"))
    first, second = (f"model.layers.0.block_sparse_moe.experts.{n}.w1.weight" for n in (0, 1))
    rounding, others = (mx.abs(found[first] - weights[name]).max() for name in (first, second))
    assert 10 * rounding < others


def test_what_is_not_read_is_copied_from_what_was_quantised(tmp_path, tiny_config):
    config = {**tiny_config, "hidden_size": 64, "intermediate_size": 64}
    weights = named_arrays(initialize(config, seed=0).parameters())
    weights[FREQUENCIES] = mx.arange(4.0).astype(mx.float16)
    base = quantised(tmp_path, config, weights)
    folder = written(base, tmp_path / "fused")
    assert headers(folder) == headers(tmp_path / "source")
    found = mx.load(str(folder / "model.safetensors"))
    assert mx.array_equal(found[FREQUENCIES], weights[FREQUENCIES])
    (tmp_path / "source/model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors: is gone\nRun `make repro`"):
        StoredTensors(opened(base), base)


@pytest.mark.parametrize(("dtype", "rounded"), [(mx.float32, False), (mx.bfloat16, True)])
def test_what_is_not_read_is_not_rounded(make_base, tensors, dtype, rounded):
    plain = {name: value.astype(mx.float32) for name, value in tensors.items()}
    plain[FREQUENCIES] = plain[FREQUENCIES].astype(mx.bfloat16)
    plain["model.norm.weight"] = plain["model.norm.weight"].astype(dtype)
    base = make_base([plain])
    assert StoredTensors(opened(base), base).rounded is rounded


def test_one_stack_is_in_memory_at_a_time(make_base, tiny_config, tmp_path):
    shape = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 12}
    model = initialize({**tiny_config, **shape, **MIXTRAL, "num_local_experts": 8}, seed=0)
    weights = apart(named_arrays(model.parameters()))
    size = sum(value.nbytes for value in weights.values())
    base = make_base([weights], **shape, **MIXTRAL | {"num_local_experts": 8})
    del model
    weights.clear()
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    written(base, tmp_path / "fused")
    assert mx.get_peak_memory() - before < size / 5


# What cannot be written


def test_a_base_that_can_be_fused_has_no_notice(make_base, tensors):
    assert fused_notice(make_base([tensors])) is None


def test_a_base_whose_tensors_are_changed_as_they_are_read_is_told_of(
    make_base, tensors, monkeypatch
):
    from mlx_lm.models.llama import Model

    base, sanitize = make_base([tensors]), Model.sanitize

    def doubled(self, weights):
        found = sanitize(self, weights)
        return {**found, "model.norm.weight": found["model.norm.weight"] * 2}

    monkeypatch.setattr(Model, "sanitize", doubled)
    assert fused_notice(base) == (
        "export.formats=[fused] will be refused for this base. These tensors are not moved but "
        "changed as they are read:\n  model.norm.weight: its numbers are read 2 to 2 times\n"
        "Its tensors cannot be written by the names that other programs know. "
        "Use export.formats=[adapter]."
    )


def test_packed_tensors_that_the_model_does_not_read_are_refused(make_base, tensors, monkeypatch):
    base = make_base([tensors])
    manifest = json.loads((base / "manifest.json").read_text())
    manifest["files"][0]["tensors"][FREQUENCIES]["dtype"] = "U32"
    write_json(base / "manifest.json", manifest)
    message = (
        r"The model does not read these tensors of its base, which are packed:\n"
        rf"  {FREQUENCIES}: U32\n.*Use export\.formats=\[adapter\]\."
    )
    with pytest.raises(ModelError, match=message):
        StoredTensors(opened(base), base)
