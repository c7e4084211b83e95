"""What we rely on in mlx-lm without its having promised it; a new version fails here first."""

import importlib.metadata
import inspect
import json
import subprocess
import sys

import pytest

from pipeline.device import mx, nn
from pipeline.errors import ModelError
from pipeline.model.network import upstream
from pipeline.model.network.build import build
from pipeline.model.network.tree import named_arrays
from pipeline.model.scratch import initialize, save_scratch

TOKENS = mx.array([[1, 5, 9, 33]])
LORA = {"rank": 2, "scale": 3.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_the_version_is_the_one_this_contract_was_written_for():
    assert importlib.metadata.version("mlx-lm") == "0.32.2"


@pytest.mark.parametrize("name", upstream.__all__)
def test_every_name_is_there(name):
    assert callable(getattr(upstream, name))


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("create_causal_mask", ["N", "offset", "window_size"]),
        ("dequantize_model", ["model"]),
        ("linear_to_lora_layers", ["model", "num_layers", "config", "use_dora"]),
        ("load_adapters", ["model", "adapter_path"]),
        ("load_model", ["model_path", "lazy", "strict"]),
        ("load_tokenizer", ["folder", "named"]),
        ("make_prompt_cache", ["model"]),
        ("model_classes", ["config"]),
        ("make_shards", ["weights"]),
    ],
)
def test_signatures(name, first):
    assert parameters(getattr(upstream, name))[: len(first)] == first


def test_importing_leaves_the_limit_on_open_files():
    code = (
        "import resource; kind = resource.RLIMIT_NOFILE\n"
        "limits = (1000, resource.getrlimit(kind)[1])\n"
        "resource.setrlimit(kind, limits)\n"
        "import pipeline.model.network.upstream, pipeline.generate.greedy\n"
        "assert resource.getrlimit(kind) == limits, resource.getrlimit(kind)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_classes_follow_the_model_type(tiny_config):
    model_class, arguments_class = upstream.model_classes(tiny_config)
    model = model_class(arguments_class.from_dict({**tiny_config, "unknown_key": 1}))
    assert model.model_type == "llama"
    with pytest.raises(ValueError, match="unheard_of not supported"):
        upstream.model_classes({"model_type": "unheard_of"})


def test_a_model_has_its_blocks_as_layers_and_takes_a_cache(tiny_config):
    model = build(tiny_config)
    assert len(model.layers) == tiny_config["num_hidden_layers"]
    assert parameters(type(model).__call__)[:3] == ["self", "inputs", "cache"]


def test_models_ask_their_cache_for_the_mask(tiny_model):
    asked = []

    class Cache:
        offset = 0

        def make_mask(self, length, return_array=False, window_size=None):
            asked.append((length, return_array, window_size))

        def update_and_fetch(self, keys, values):
            return keys, values

    tiny_model(TOKENS, cache=[Cache()] * 2)
    assert asked == [(4, False, None)]


def test_the_causal_mask_is_true_where_one_may_look():
    assert upstream.create_causal_mask(3).astype(mx.int32).tolist() == [
        [1, 0, 0],
        [1, 1, 0],
        [1, 1, 1],
    ]
    assert upstream.create_causal_mask(3, window_size=1).astype(mx.int32).tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]


def test_attention_models_keep_a_kv_cache(tiny_config):
    sliding = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4}
    caches = upstream.make_prompt_cache(build({**tiny_config, **sliding}))
    assert [type(cache).__name__ for cache in caches] == ["KVCache", "RotatingKVCache"]


def test_lora_layers_hold_what_we_read_and_write(tiny_model):
    upstream.linear_to_lora_layers(tiny_model, 1, LORA)
    layer = tiny_model.layers[1].self_attn.q_proj
    assert isinstance(layer.linear, nn.Linear)
    assert layer.lora_a.shape == (16, 2)
    assert mx.array_equal(layer.lora_b, mx.zeros((2, 16)))
    assert layer.scale == 3.0
    assert type(tiny_model.layers[0].self_attn.q_proj) is nn.Linear
    assert type(tiny_model.layers[1].self_attn.k_proj) is nn.Linear
    layer.lora_b = mx.ones((2, 16))
    assert mx.allclose(layer.fuse().weight, layer.linear.weight + 3.0 * (layer.lora_a.sum(1)))


def test_lora_keeps_a_frozen_base_frozen(tiny_model):
    tiny_model.freeze()
    upstream.linear_to_lora_layers(tiny_model, 2, LORA)
    names = named_arrays(tiny_model.trainable_parameters())
    assert {name.rsplit(".", 1)[1] for name in names} == {"lora_a", "lora_b"}


def test_loading_is_strict_and_runs_no_code(tiny_model, tiny_config, tmp_path):
    save_scratch(tiny_model, tiny_config, tmp_path)
    model, config = upstream.load_model(tmp_path, lazy=True, strict=True)
    assert mx.array_equal(model(TOKENS), tiny_model(TOKENS))
    assert config == tiny_config
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')")
    (tmp_path / "config.json").write_text(json.dumps({**tiny_config, "model_file": "evil.py"}))
    with pytest.raises(ValueError, match="custom module"):
        upstream.load_model(tmp_path, lazy=True, strict=True)
    (tmp_path / "config.json").write_text(json.dumps({**tiny_config, "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"not in model"):
        upstream.load_model(tmp_path, lazy=True, strict=True)


def test_a_tokenizer_that_cannot_be_loaded_is_named_as_the_user_knows_it(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError) as caught:
        upstream.load_tokenizer(tmp_path, tmp_path.with_name("given"))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path.with_name('given')}: the tokenizer cannot be loaded by")
    assert str(tmp_path) not in message
    assert message.endswith(
        "Save it again with transformers' `save_pretrained`, and name that folder."
    )


def test_dequantising_replaces_every_quantised_layer(tiny_config):
    model = initialize({**tiny_config, "hidden_size": 64, "intermediate_size": 64}, seed=0)
    nn.quantize(model, group_size=32, bits=4)
    before = model(TOKENS)
    upstream.dequantize_model(model)
    kinds = {type(module).__name__ for _, module in model.named_modules()}
    assert not any("Quantized" in kind for kind in kinds)
    assert mx.allclose(model(TOKENS), before, atol=1e-5)
