"""The base model: what is refused, what its manifest says, and that its weights stay in place."""

import json
import shutil

import numpy as np
import pytest

from pipeline.device import mx, nn
from pipeline.errors import ModelError
from pipeline.files import read_json, sha256_file, write_json
from pipeline.model.network.base import (
    MANIFEST,
    assembled,
    count_parameters,
    load_base,
    size_metrics,
    weights_identity,
    write_manifest,
)
from pipeline.model.network.build import build
from pipeline.model.network.tree import named_arrays
from pipeline.model.scratch import initialize, save_scratch
from pipeline.model.source.folder import INDEX, read_config

TOKENS = mx.array([[1, 5, 9, 33, 2, 60]])
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
UP, LAST = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.gate_proj.weight"


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    return folder


@pytest.fixture
def change(model_folder):
    """Write the model folder again with other tensors and keys; None takes one out."""

    def rewrite(config=None, **changes):
        weights = mx.load(str(model_folder / "model.safetensors"))
        weights |= {name.replace("__", "."): value for name, value in changes.items()}
        kept = {name: value for name, value in weights.items() if value is not None}
        mx.eval(kept)
        mx.save_safetensors(str(model_folder / "model.safetensors"), kept)
        changed = read_json(model_folder / "config.json") | (config or {})
        stated = {name: value for name, value in changed.items() if value is not None}
        write_json(model_folder / "config.json", stated)
        return model_folder

    return rewrite


def shard(folder):
    """Cut a model into two shards with an index, as large models come."""
    weights = mx.load(str(folder / "model.safetensors"))
    mx.eval(weights)
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        name = f"model-{number + 1:05d}-of-00002.safetensors"
        mx.save_safetensors(str(folder / name), {tensor: weights[tensor] for tensor in names})
        weight_map |= dict.fromkeys(names, name)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def quantized_folder(config, folder):
    """Write a 4-bit model as mlx-lm does, and give the model it was made from."""
    folder.mkdir(exist_ok=True)
    plain = {**config, "hidden_size": 64, "intermediate_size": 64}
    model = initialize(plain, seed=0)
    nn.quantize(model, group_size=32, bits=4)
    weights = named_arrays(model.parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    config = {**plain, "quantization": {"group_size": 32, "bits": 4}}
    write_json(folder / "config.json", config)
    return model


def take(base, folder):
    return write_manifest(base, folder, "the source", "the tokenizer's hash")


def same(one, other, inputs=TOKENS):
    return bool(mx.array_equal(one(inputs), other(inputs)))


# What is loaded is what lies there


def test_a_base_gives_the_logits_of_the_model_it_was_saved_from(base, model_folder, tiny_model):
    take(base, model_folder)
    loaded = load_base(base, "float32")
    assert same(loaded.model, tiny_model)
    assert loaded.config == read_json(model_folder / "config.json")


def test_a_base_is_frozen(base, model_folder):
    take(base, model_folder)
    assert named_arrays(load_base(base, "float32").model.trainable_parameters()) == {}


def test_shards_are_read_where_they_lie(base, model_folder, tiny_model):
    shard(model_folder)
    manifest = take(base, model_folder)
    assert manifest["folder"] == str(model_folder)
    assert sorted(path.name for path in base.iterdir()) == ["config.json", MANIFEST]
    assert same(load_base(base, "float32").model, tiny_model)


def test_assembling_makes_links_not_copies(base, model_folder):
    shard(model_folder)
    take(base, model_folder)
    with assembled(base) as folder:
        links = sorted(folder.glob("*.safetensors"))
        assert [link.resolve().parent for link in links] == [model_folder, model_folder]
        assert all(link.is_symlink() for link in links)
    assert not folder.exists()


def test_a_scratch_model_lies_beside_its_manifest(base, tiny_model, tiny_config):
    save_scratch(tiny_model, tiny_config, base)
    assert "folder" not in take(base, base)
    shutil.move(base, base.with_name("moved"))  # DVC restores it anywhere
    assert same(load_base(base.with_name("moved"), "float32").model, tiny_model)


def test_the_manifest_says_what_the_files_hold(base, model_folder):
    manifest = take(base, model_folder)
    [file] = manifest["files"]
    path = model_folder / "model.safetensors"
    assert manifest["source"] == "the source"
    assert manifest["tokenizer_sha256"] == "the tokenizer's hash"
    assert file["sha256"] == sha256_file(path)
    assert file["size"] == path.stat().st_size
    assert file["tensors"][EMBEDDING] == {"dtype": "F32", "shape": [64, 16]}
    assert file["tensors"][UP] == {"dtype": "F32", "shape": [32, 16]}
    assert len(file["tensors"]) == 20  # nine a block, the embedding and the last norm
    assert read_json(base / MANIFEST) == manifest


def test_the_settings_for_generation_go_with_the_base(base, model_folder):
    write_json(model_folder / "generation_config.json", {"eos_token_id": [2, 7]})
    take(base, model_folder)
    assert read_json(base / "generation_config.json") == {"eos_token_id": [2, 7]}


@pytest.mark.parametrize("stored", [mx.bfloat16, mx.float16])
def test_a_16_bit_base_is_computed_in_the_type_asked_for(base, change, stored, tiny_model):
    weights = named_arrays(tiny_model.parameters())
    half = {name: value.astype(stored) for name, value in weights.items()}
    folder = change({"torch_dtype": str(stored).removeprefix("mlx.core.")}, **half)
    take(base, folder)
    for dtype in (mx.float32, mx.bfloat16, mx.float16):
        model = load_base(base, str(dtype).removeprefix("mlx.core.")).model
        assert {value.dtype for value in named_arrays(model.parameters()).values()} == {dtype}
    exact = load_base(base, "float32").model
    assert mx.array_equal(named_arrays(exact.parameters())[UP], half[UP].astype(mx.float32))


def test_auto_is_float32_on_a_cpu_and_as_stored_elsewhere(base, change, tiny_model, monkeypatch):
    weights = named_arrays(tiny_model.parameters())
    take(base, change(**{name: value.astype(mx.float16) for name, value in weights.items()}))
    for on_cpu, expected in ((True, mx.float32), (False, mx.float16)):
        monkeypatch.setattr("pipeline.model.network.base.is_cpu", lambda on_cpu=on_cpu: on_cpu)
        monkeypatch.setattr("pipeline.model.network.base.compute_dtype", lambda: mx.float32)
        model = load_base(base, "auto").model
        assert named_arrays(model.parameters())[UP].dtype == expected


def test_a_quantised_base_is_loaded_quantised(base, tmp_path, tiny_config):
    model = quantized_folder(tiny_config, tmp_path / "quantized")
    take(base, tmp_path / "quantized")
    loaded = load_base(base, "float32").model
    assert isinstance(loaded.layers[0].mlp.up_proj, nn.QuantizedLinear)
    assert same(loaded, model)


# Counting


def formula(config):
    """Count the weights of a Llama by hand; keys and values have heads of their own number."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    key_width = width * config["num_key_value_heads"] // config["num_attention_heads"]
    block = 2 * width * width + 2 * key_width * width + 3 * width * inner + 2 * width
    heads = 1 if config["tie_word_embeddings"] else 2
    return config["num_hidden_layers"] * block + heads * config["vocab_size"] * width + width


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_parameters_are_counted_by_their_shapes(tiny_config, tied, kv_heads):
    config = {**tiny_config, "tie_word_embeddings": tied, "num_key_value_heads": kv_heads}
    assert count_parameters(build(config)) == (formula(config), formula(config))


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_a_quantised_weight_counts_as_what_it_stands_for(tiny_config, bits):
    config = {**tiny_config, "hidden_size": 64, "intermediate_size": 64}
    model = build(config)
    nn.quantize(model, group_size=32, bits=bits)
    model.freeze()
    assert count_parameters(model) == (0, formula(config))


def test_tables_that_are_no_parameters_do_not_count(tiny_config):
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    config = {**tiny_config, "rope_scaling": scaling}
    assert count_parameters(build(config))[1] == formula(config)


# Weights that cannot be used


NAN, INFINITY = float("nan"), float("inf")


def broken(shape, *values):
    flat = np.zeros(shape, np.float32)
    flat.flat[: len(values)] = values
    return mx.array(flat)


FAULTS = {
    "missing": ({UP: None}, rf"{UP}: not in any file"),
    "extra": ({"model.extra": mx.zeros(3)}, r"model\.extra: config\.json has no place for it"),
    "shape": ({UP: mx.zeros((32, 15))}, rf"{UP}: file \(32, 15\), config\.json \(32, 16\)"),
    "nan": ({NORM: broken(16, NAN)}, rf"{NORM}: 1 of 16 numbers are not finite"),
    "infinity": (
        {NORM: broken(16, INFINITY, -INFINITY)},
        rf"{NORM}: 2 of 16 numbers are not finite",
    ),
    "int": (
        {NORM: mx.ones(16, mx.int32)},
        rf"{NORM}: dtype I32 in model\.safetensors; must be BF16, F16, F32",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_tensor_is_named(base, change, fault):
    changes, message = FAULTS[fault]
    headline = r"tensors that cannot be used \(1\):\n  "
    with pytest.raises(ModelError, match=f"{headline}{message}\nFetch or save the model again"):
        take(base, change(**changes))
    assert not (base / MANIFEST).exists()


def test_all_faults_are_named_at_once(base, change):
    folder = change(
        **{
            UP: None,
            "model.extra": mx.zeros(3),
            EMBEDDING: mx.zeros((63, 16)),
            NORM: mx.ones(16, mx.int32),
        }
    )
    with pytest.raises(ModelError) as caught:
        take(base, folder)
    text = str(caught.value)
    assert "tensors that cannot be used (4)" in text
    for part in (f"{UP}: not in", "extra: config.json has", f"{EMBEDDING}: file", f"{NORM}: dtype"):
        assert part in text


def test_nan_is_found_in_one_shard_while_another_has_a_wrong_type(base, change, model_folder):
    change(**{LAST: broken((32, 16), NAN), NORM: mx.ones(16, mx.int32)})
    shard(model_folder)
    shards = read_json(model_folder / INDEX)["weight_map"]
    assert shards[LAST] != shards[NORM]
    with pytest.raises(ModelError, match=rf"(?s)used \(2\):.*{NORM}: dtype I32.*{LAST}: 1 of 512"):
        take(base, model_folder)


def test_a_type_that_mlx_cannot_read(base, model_folder, tiny_model):
    from safetensors.numpy import save_file

    weights = named_arrays(tiny_model.parameters())
    doubles = {name: np.array(value, dtype=np.float64) for name, value in weights.items()}
    save_file(doubles, model_folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"tensors that cannot be used \(20\):\n  .*: dtype F64"):
        take(base, model_folder)


def test_a_head_that_differs_from_the_embedding_it_is_tied_to(base, change):
    folder = change(**{"lm_head.weight": mx.zeros((64, 16))})
    message = rf"lm_head\.weight: differs from {EMBEDDING}, which stands for it .*=True\)"
    with pytest.raises(ModelError, match=message):
        take(base, folder)


def test_a_head_in_the_files_is_used_where_config_json_is_silent(base, change):
    """transformers has a Llama untied there; the default of mlx-lm is the embedding."""
    folder = change({"tie_word_embeddings": None}, **{"lm_head.weight": mx.ones((64, 16))})
    take(base, folder)
    assert read_config(base)["tie_word_embeddings"] is False
    logits = load_base(base, "float32").model(TOKENS)
    assert mx.allclose(logits, logits[..., :1])  # equal rows give equal logits: the head was used


def test_without_a_head_in_the_files_it_is_the_embedding(base, change):
    take(base, change({"tie_word_embeddings": None}))
    assert read_config(base)["tie_word_embeddings"] is True
    assert "lm_head" not in load_base(base, "float32").model


def test_a_head_that_equals_its_embedding_is_accepted(base, change, model_folder, tiny_model):
    embedding = named_arrays(tiny_model.parameters())[EMBEDDING]
    take(base, change(**{"lm_head.weight": embedding}))
    assert same(load_base(base, "float32").model, tiny_model)


def test_an_untied_head_is_its_own(base, change):
    folder = change({"tie_word_embeddings": False}, **{"lm_head.weight": mx.ones((64, 16))})
    take(base, folder)
    logits = load_base(base, "float32").model(TOKENS)
    assert mx.allclose(logits, logits[..., :1])  # equal rows give equal logits: the head was used


# Architectures that cannot be built


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "unheard_of"}, r"model_type=unheard_of cannot be built \(.*not supported"),
        ({"model_type": "cache"}, r"model_type=cache cannot be built \("),  # no architecture
        ({"model_type": "../../evil"}, r"model_type=\.\./\.\./evil cannot be built \(.*"),
        ({"layer_types": []}, r"model_type=llama cannot be built .*; without layer_types=\[\] it"),
    ],
)
def test_an_architecture_that_cannot_be_built(base, change, changes, reason):
    message = rf"/model/config\.json: {reason}.*\nUse the config\.json that .* that mlx-lm has\."
    with pytest.raises(ModelError, match=message):
        take(base, change(changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", r"holds \[\]; must hold an object"),
        ('{"eos_token_id": "</s>"}', r'\n  eos_token_id: is "</s>"; must be a whole number'),
        ('{"eos_token_id": [2, -1]}', r"\n  eos_token_id: is \[2, -1\]; must be a whole number"),
        (r'{"name": "\ud800"}', r"\n  name: holds half of a surrogate pair"),
    ],
)
def test_damaged_settings_for_generation(base, model_folder, content, message):
    (model_folder / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match=rf"generation_config\.json: .*{message}.*\nFetch the"):
        take(base, model_folder)


def test_a_config_that_lacks_a_setting(base, model_folder):
    config = read_json(model_folder / "config.json")
    del config["hidden_size"]
    write_json(model_folder / "config.json", config)
    with pytest.raises(ModelError, match=r"cannot be built .*hidden_size"):
        take(base, model_folder)


def test_an_architecture_that_stumbles_over_missing_tensors(base, model_folder):
    shape = {"num_local_experts": 2, "num_experts_per_tok": 1}
    config = read_json(model_folder / "config.json") | shape | {"model_type": "mixtral"}
    write_json(model_folder / "config.json", config)
    weights = mx.load(str(model_folder / "model.safetensors"))
    weights["model.layers.0.block_sparse_moe.experts.0.w1.weight"] = mx.zeros((32, 16))
    mx.eval(weights)
    mx.save_safetensors(str(model_folder / "model.safetensors"), weights)
    with pytest.raises(ModelError, match=r"its tensors are not those of config\.json \(KeyError"):
        take(base, model_folder)


def test_a_quantised_base_with_a_missing_tensor(base, tmp_path, tiny_config):
    folder = tmp_path / "quantized"
    quantized_folder(tiny_config, folder)
    weights = mx.load(str(folder / "model.safetensors"))
    del weights["model.layers.0.mlp.up_proj.scales"]
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    with pytest.raises(ModelError, match=rf"{folder}: mlx-lm cannot load it \(.*\nUse weights"):
        take(base, folder)


def test_a_quantisation_that_mlx_lm_does_not_know(base, change, model_folder):
    change({"quantization_config": {"quant_method": "compressed-tensors", "format": "fp8"}})
    with pytest.raises(ModelError, match=r"mlx-lm cannot load it .*unsupported"):
        take(base, model_folder)


def test_nan_in_a_quantised_base(base, tmp_path, tiny_config):
    folder = tmp_path / "quantized"
    quantized_folder(tiny_config, folder)
    weights = mx.load(str(folder / "model.safetensors"))
    weights["model.layers.0.mlp.up_proj.scales"] *= NAN
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    with pytest.raises(ModelError, match=r"up_proj\.scales: 128 of 128 numbers are not finite"):
        take(base, folder)


# A base that changed after the weights stage


def test_a_file_that_changed(base, model_folder, change, tiny_model):
    take(base, model_folder)
    change(**{NORM: mx.zeros(16)})
    message = rf"{base} describes files .*\n  .*model\.safetensors: has changed\nRun `make repro`"
    with pytest.raises(ModelError, match=message):
        load_base(base, "float32")


def test_a_file_that_is_gone_is_named_beside_one_that_changed(base, model_folder):
    shard(model_folder)
    take(base, model_folder)
    first, second = sorted(model_folder.glob("*.safetensors"))
    first.unlink()
    second.write_bytes(second.read_bytes() + b" ")
    with pytest.raises(ModelError, match=rf"{first}: is gone\n  {second}: has changed"):
        load_base(base, "float32")


def test_a_base_whose_weights_do_not_suit_its_config(base, model_folder):
    take(base, model_folder)
    config = read_json(base / "config.json")
    write_json(base / "config.json", {**config, "num_hidden_layers": 1})
    with pytest.raises(ModelError, match=rf"{base}: mlx-lm cannot load it"):
        load_base(base, "float32")


MANIFESTS = {
    "no JSON": (lambda manifest: "{", r"is no JSON"),
    "a list": (lambda manifest: "[]", r"holds \[\]; must hold an object"),
    "no files": (lambda manifest: manifest.pop("files") and None, r"\n  files: is missing"),
    "a number": (lambda manifest: manifest.update(source=3), r"\n  source: is 3; must be text"),
    "a size": (
        lambda manifest: manifest["files"][0].update(size="9"),
        r'\n  files\[0\]\.size: is "9"; must be a whole number',
    ),
    "a shape": (
        lambda manifest: manifest["files"][0]["tensors"][NORM].update(shape=[-1]),
        rf"\n  files\[0\]\.tensors\.{NORM}\.shape\[0\]: is -1; must be a whole number",
    ),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_damaged_manifest(base, model_folder, kind):
    change, message = MANIFESTS[kind]
    manifest = take(base, model_folder)
    text = change(manifest)
    text = text if isinstance(text, str) else json.dumps(manifest)
    (base / MANIFEST).write_text(text)
    remedy = r"Run the weights stage again: `dvc repro --force weights`\."
    for read in (lambda: load_base(base, "float32"), lambda: weights_identity(base, "auto")):
        with pytest.raises(ModelError, match=rf"manifest\.json: .*{message}.*\n{remedy}"):
            read()


def test_tensors_and_bytes_are_counted(model_folder, tmp_path):
    (tmp_path / "base").mkdir()
    manifest = write_manifest(tmp_path / "base", model_folder, "some/source", "hash")
    file = model_folder / "model.safetensors"
    assert size_metrics(manifest) == {
        "base_tensors": len(mx.load(str(file))),
        "base_bytes": file.stat().st_size,
    }
