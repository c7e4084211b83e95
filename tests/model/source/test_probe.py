"""A config.json that cannot be computed is refused with its key, before weights are read."""

import resource
import time

import pytest

from pipeline.device import mx
from pipeline.errors import ModelError
from pipeline.files import read_json, write_json
from pipeline.model.network.build import build
from pipeline.model.network.tree import named_arrays
from pipeline.model.source.check import check_weights
from pipeline.model.source.folder import Tensor, WeightFile, read_config
from pipeline.model.source.probe import (
    check_computes,
    check_depth,
    failure,
    faulty_keys,
    make_constant,
)
from tests.model.network.test_forward import MAMBA
from tests.model.test_body_and_head import CONFIGS as LIKE_LLAMA
from tests.support.foreign_code import PHI3

MIXTRAL = {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2}
CONFIGS = {**LIKE_LLAMA, "mamba": MAMBA, "mixtral": MIXTRAL, "phi3": PHI3}


def test_a_model_that_computes_passes(tmp_path, tiny_config):
    assert failure(tiny_config) is None
    check_computes(tmp_path, tiny_config)


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_no_architecture_is_refused_for_its_own_ways(tiny_config, change):
    if "text_config" in change:
        text = {"model_type": "gemma3_text", "sliding_window_pattern": 2}
        change = change | {"text_config": {**tiny_config, **text}}
    assert failure(change if "vocab_size" in change else tiny_config | change) is None


FAULTS = {
    "rope_theta": ("ten thousand", r"cannot be built|two tokens cannot be computed"),
    "rms_norm_eps": (float("nan"), "two tokens are computed to numbers that are not finite"),
    "rope_scaling": ({"rope_type": "linear", "factor": "two"}, "cannot be"),
    "head_dim": ("four", "cannot be"),
    "torch_dtype": ("int32", "torch_dtype=int32 is no type of weights"),
}


@pytest.mark.parametrize("key", FAULTS)
def test_a_fault_is_named_with_folder_and_key(tmp_path, tiny_config, key):
    value, reason = FAULTS[key]
    with pytest.raises(ModelError, match=reason) as caught:
        check_computes(tmp_path, tiny_config | {key: value})
    first, remedy = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path}/config.json: ")
    assert (f"without {key}={value!r} it computes" in first) is (key != "rms_norm_eps")
    assert remedy.startswith("Use the config.json that the model was saved with")


def test_keys_are_found_among_lists_of_one_entry_a_layer():
    def fails(config):
        assert config["num_hidden_layers"] == 1
        assert len(config["layer_types"]) == 1
        return "fails" if "wrong" in config or "too" in config else None

    config = {"model_type": "x", "num_hidden_layers": 3, "layer_types": ["a"] * 3}
    with_one = config | {"wrong": 1}
    small = {"layer_types": ["a"], "num_hidden_layers": 1}
    assert fails(with_one | small) == "fails"
    assert faulty_keys(with_one, lambda some: fails(some | small)) == ["wrong=1"]
    assert faulty_keys(config | {"wrong": 1, "too": 2}, lambda some: fails(some | small)) == []
    assert faulty_keys(config, lambda some: fails(some | small)) == []


def test_a_fault_among_several_modalities_is_named(tmp_path, tiny_config):
    config = {"model_type": "mistral3", "text_config": {**tiny_config, "model_type": "mistral"}}
    check_computes(tmp_path, config)
    config["text_config"]["rope_scaling"] = {"rope_type": "linear", "factor": "two"}
    with pytest.raises(ModelError, match=r"without text_config\.rope_scaling=.* it computes\.\n"):
        check_computes(tmp_path, config)


def test_constant_weights_take_no_memory_and_keep_their_shapes(tiny_config):
    model = build(tiny_config | {"hidden_size": 1 << 15})
    make_constant(model)
    arrays = named_arrays(model.parameters())
    mx.reset_peak_memory()
    mx.eval(arrays)
    assert mx.get_peak_memory() < 1 << 20
    assert arrays["model.norm.weight"].shape == (1 << 15,)


def test_more_layers_than_the_files_hold_are_refused_before_any_is_built(tmp_path, tiny_config):
    tensors = [Tensor(f"model.layers.{index}.w", "F32", (1,)) for index in (0, 11)]
    files = [WeightFile(tmp_path / "a.safetensors", tuple(tensors))]
    check_depth(tmp_path, tiny_config | {"num_hidden_layers": 12}, files)
    check_depth(tmp_path, tiny_config | {"num_hidden_layers": 11}, files)  # a layer for guessing
    message = r"config\.json: num_hidden_layers=13; the files hold tensors of 12 layers\.\nUse"
    with pytest.raises(ModelError, match=message):
        check_depth(tmp_path, tiny_config | {"num_hidden_layers": 13}, files)
    check_depth(tmp_path, {"num_hidden_layers": 13}, [])


def test_more_kinds_of_layers_than_layers_are_refused_before_any_is_built(model_folder):
    path = model_folder / "config.json"
    config = read_json(path) | {"layer_types": ["full_attention"] * 1_000_000}
    started = time.perf_counter()
    message = r"config\.json: layer_types has 1,000,000 entries for num_hidden_layers=2\.\nUse the"
    with pytest.raises(ModelError, match=message):
        check_weights(model_folder, config)
    assert time.perf_counter() - started < 1


def test_absurd_sizes_are_compared_with_the_files_before_they_are_computed(model_folder):
    path = model_folder / "config.json"
    config = read_json(path) | {"hidden_size": 1 << 22, "intermediate_size": 1 << 24}
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(
        ModelError, match=r"gate_proj\.weight: file \(32, 16\), config\.json \(1677"
    ):
        check_weights(model_folder, config)
    assert time.perf_counter() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_an_absurd_depth_costs_neither_time_nor_memory(model_folder):
    path = model_folder / "config.json"
    write_json(path, read_json(path) | {"num_hidden_layers": 10_000})
    config = read_config(model_folder)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(ModelError, match=r"num_hidden_layers=10000; the files hold .* of 2 layers"):
        check_weights(model_folder, config)
    assert time.perf_counter() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
