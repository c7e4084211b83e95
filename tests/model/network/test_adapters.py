"""Adapters: nothing at first, folded in exactly, counted by formula, refused where they misfit."""

import pytest

from pipeline.device import mx, nn
from pipeline.errors import ConfigError, ModelError
from pipeline.files import read_json, sha256_file, write_json
from pipeline.formats.fuse import fuse
from pipeline.model.network.adapters import (
    AdapterSettings,
    apply,
    load_adapter,
    make_trainable,
    save_adapter,
)
from pipeline.model.network.base import count_parameters
from pipeline.model.network.build import build
from pipeline.model.network.tree import trainable_arrays
from pipeline.model.scratch import initialize

TOKENS = mx.array([[1, 5, 9, 33, 2, 60], [7, 7, 3, 4, 5, 6]])
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2}
QUANTISED = [(4, "affine", 32), (3, "affine", 32), (8, "affine", 64), (4, "mxfp4", 32)]


def settings(**changes):
    defaults = {
        "mode": "lora",
        "rank": 4,
        "alpha": 8.0,
        "dropout": 0.0,
        "num_layers": None,
        "targets": ("*",),
    }
    return AdapterSettings(**{**defaults, **changes})


def train_somewhere(model, deviation=0.05):
    """Give every adapter an effect, as training would."""
    key = mx.random.key(9)
    for name, value in sorted(trainable_arrays(model).items()):
        key, own = mx.random.split(key)
        moved = value + mx.random.normal(value.shape, scale=deviation, key=own)
        model.load_weights([(name, moved)], strict=False)
    mx.eval(model.parameters())


def wide(config, **changes):
    return {**config, "hidden_size": 64, "intermediate_size": 64, **changes}


def largest(difference):
    return float(mx.abs(difference).max())


# Laws


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, MIXTRAL])
def test_an_adapter_starts_as_the_base_exactly(tiny_config, changes):
    model = initialize({**tiny_config, **changes}, seed=0)
    before = model(TOKENS)
    mx.eval(before)
    apply(model, settings(), seed=1)
    assert mx.array_equal(model(TOKENS), before)


def test_equal_seeds_give_equal_adapters_and_others_do_not(tiny_config):
    def start(seed):
        model = initialize(tiny_config, seed=0)
        apply(model, settings(), seed=seed)
        return trainable_arrays(model)

    first, again, other = start(1), start(1), start(2)
    assert all(mx.array_equal(first[name], again[name]) for name in first)
    assert not any(mx.array_equal(first[n], other[n]) for n in first if n.endswith("lora_a"))


def test_saving_and_loading_gives_the_same_model_and_bytes(tiny_config, tmp_path):
    model = initialize(tiny_config, seed=0)
    config = apply(model, settings(targets=("q_proj", "v_proj"), num_layers=1), seed=1)
    train_somewhere(model)
    weights = trainable_arrays(model)
    save_adapter(tmp_path / "one", weights, config)
    save_adapter(tmp_path / "two", dict(reversed(list(weights.items()))), config)
    names = ("adapters.safetensors", "adapter_config.json")
    assert len({sha256_file(tmp_path / folder / names[0]) for folder in ("one", "two")}) == 1
    loaded = initialize(tiny_config, seed=0)
    assert (
        load_adapter(loaded, tmp_path / "one") == config == read_json(tmp_path / "one" / names[1])
    )
    assert mx.array_equal(loaded(TOKENS), model(TOKENS))


def test_full_weights_are_saved_and_loaded_too(tiny_config, tmp_path):
    model = initialize(tiny_config, seed=0)
    config = apply(model, settings(mode="full"), seed=1)
    train_somewhere(model)
    save_adapter(tmp_path, trainable_arrays(model), config)
    loaded = initialize(tiny_config, seed=0)
    load_adapter(loaded, tmp_path)
    assert mx.array_equal(loaded(TOKENS), model(TOKENS))
    fuse(loaded)  # nothing to fold in
    assert mx.array_equal(loaded(TOKENS), model(TOKENS))


# What is trained


def adapter_size(config, names, rank, num_layers):
    """Count by hand: rank times inputs plus outputs, keys and values narrower than queries."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    keys = width // heads * kv_heads
    sides = {
        "q_proj": (width, width),
        "k_proj": (width, keys),
        "v_proj": (width, keys),
        "o_proj": (width, width),
        "gate_proj": (width, inner),
        "up_proj": (width, inner),
        "down_proj": (inner, width),
    }
    return num_layers * rank * sum(sum(sides[name]) for name in names)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    ("targets", "num_layers"),
    [(("q_proj", "v_proj"), 2), (("k_proj",), 1), (("down_proj", "o_proj", "gate_proj"), 2)],
)
def test_trainable_weights_follow_the_real_shapes(
    tiny_config, targets, num_layers, kv_heads, quantised
):
    config = wide(tiny_config, num_key_value_heads=kv_heads)
    model = build(config)
    total = count_parameters(model)[1]
    if quantised:
        nn.quantize(model, group_size=32, bits=4)
    apply(model, settings(rank=3, targets=targets, num_layers=num_layers), seed=0)
    expected = adapter_size(config, targets, 3, num_layers)
    assert count_parameters(model) == (expected, total + expected)


def test_only_the_last_blocks_are_adapted(tiny_model):
    apply(tiny_model, settings(targets=("q_proj",), num_layers=1), seed=0)
    layer = "model.layers.1.self_attn.q_proj"
    assert list(trainable_arrays(tiny_model)) == [f"{layer}.lora_a", f"{layer}.lora_b"]


def test_full_trains_everything(tiny_model):
    assert apply(tiny_model, settings(mode="full"), seed=0) == {
        "fine_tune_type": "full",
        "num_layers": 2,
    }
    trainable, total = count_parameters(tiny_model)
    assert trainable == total > 0


def test_the_adapter_config_is_mlx_lms(tiny_model):
    assert apply(tiny_model, settings(targets=("v_proj", "q_*"), dropout=0.1), seed=0) == {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": {
            "rank": 4,
            "scale": 2.0,
            "dropout": 0.1,
            "keys": ["self_attn.q_proj", "self_attn.v_proj"],
        },
    }


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_loaded_model_is_made_trainable_again(tiny_config, tmp_path, mode):
    model = initialize(tiny_config, seed=0)
    config = apply(model, settings(mode=mode), seed=0)
    save_adapter(tmp_path, trainable_arrays(model), config)
    loaded = initialize(tiny_config, seed=0)
    load_adapter(loaded, tmp_path)
    make_trainable(loaded, config)
    assert trainable_arrays(loaded).keys() == trainable_arrays(model).keys()


# Targets


def test_targets_that_match_nothing_are_named_with_what_there_is(tiny_model):
    message = (
        r"lora\.targets=\['q_proj', 'query', 'Q_PROJ'\]:\n"
        r"  query: matches no layer\n  Q_PROJ: matches no layer\n"
        r"The linear layers of a block are: mlp\.down_proj, mlp\.gate_proj, .*self_attn\.v_proj"
    )
    with pytest.raises(ConfigError, match=message):
        apply(tiny_model, settings(targets=("q_proj", "query", "Q_PROJ")), seed=0)


def test_layers_outside_of_blocks_are_named_too(tiny_config):
    untied = build({**tiny_config, "tie_word_embeddings": False})
    message = r"Outside of blocks there are: lm_head, model\.embed_tokens$"
    with pytest.raises(ConfigError, match=message):
        apply(untied, settings(targets=("head",)), seed=0)
    with pytest.raises(ConfigError, match=r"lm_head: matches no layer(.*\n)+.*are: model\.embed_"):
        apply(build(tiny_config), settings(targets=("lm_head",)), seed=0)


def test_dora_is_refused_where_there_is_none(tiny_config):
    model = build({**tiny_config, **MIXTRAL})
    message = (
        r"train\.mode=dora: mlx-lm has no DoRA for these layers:\n"
        r"  block_sparse_moe\.switch_mlp\.down_proj: SwitchLinear\n(.*\n)+"
        r"Name other lora\.targets, or use train\.mode=lora\."
    )
    with pytest.raises(ConfigError, match=message):
        apply(model, settings(mode="dora"), seed=0)
    apply(build({**tiny_config, **MIXTRAL}), settings(mode="dora", targets=("q_proj",)), seed=0)


def test_dora_of_a_quantised_embedding(tiny_config):
    model = build(wide(tiny_config))
    nn.quantize(model, group_size=32, bits=4)
    with pytest.raises(ConfigError, match=r"model\.embed_tokens: QuantizedEmbedding"):
        apply(model, settings(mode="dora", targets=("embed_tokens",)), seed=0)


def test_dora_divides_by_no_empty_row(tiny_model):
    embedding = tiny_model.model.embed_tokens
    embedding.weight = embedding.weight * (mx.arange(64) > 1)[:, None]
    message = r"and DoRA divides by their norm:\n  model\.embed_tokens: 2 of 64 rows\nLeave them"
    with pytest.raises(ModelError, match=message):
        apply(tiny_model, settings(mode="dora", targets=("embed_tokens",)), seed=0)


# Named tensors


def test_tensors_that_match_nothing_are_named_with_the_nearest(tiny_model):
    message = (
        r"train\.tensors=\['model\.norm\.weight', 'model\.norm\.wieght', 'lm_head\.\*'\]:\n"
        r"  model\.norm\.wieght: matches no tensor; the nearest are model\.norm\.weight, .*\n"
        r"  lm_head\.\*: matches no tensor; .*\nGive whole names"
    )
    tensors = ("model.norm.weight", "model.norm.wieght", "lm_head.*")
    with pytest.raises(ConfigError, match=message):
        apply(tiny_model, settings(mode="tensors", tensors=tensors), seed=0)


def test_quantised_tensors_cannot_be_trained(tiny_config):
    model = build(wide(tiny_config))
    nn.quantize(model, group_size=32, bits=4)
    apply(model, settings(mode="tensors", tensors=("*norm.weight",)), seed=0)
    assert len(trainable_arrays(model)) == 5
    with pytest.raises(
        ConfigError, match=r"\n  model\.layers\.1\.mlp\.up_proj\.scales: is quantised"
    ):
        apply(model, settings(mode="tensors", tensors=("*.up_proj.*",)), seed=0)


def test_more_blocks_than_there_are(tiny_model):
    with pytest.raises(ConfigError, match=r"lora\.num_layers=3: the model has 2 blocks\.\nGive"):
        apply(tiny_model, settings(num_layers=3), seed=0)


@pytest.mark.parametrize("changes", [{}, MIXTRAL])
def test_full_training_of_a_quantised_base(tiny_config, changes):
    model = build(wide(tiny_config, **changes))
    nn.quantize(model, group_size=32, bits=4)
    with pytest.raises(ConfigError, match=r"train\.mode=full: the base is quantised\. Use train"):
        apply(model, settings(mode="full"), seed=0)


# Adapters that do not fit


@pytest.fixture
def adapter(tiny_model, tmp_path):
    config = apply(tiny_model, settings(targets=("q_proj", "k_proj")), seed=0)
    save_adapter(tmp_path, trainable_arrays(tiny_model), config)
    return tmp_path


def test_an_adapter_of_another_width(adapter, tiny_config):
    layer = r"model\.layers\.0\.self_attn\.k_proj"
    message = (
        r"adapters\.safetensors does not fit the base model:\n"
        rf"  {layer}\.lora_a: file \(16, 4\), model \(64, 4\)\n"
        rf"  {layer}\.lora_b: file \(4, 8\), model \(4, 32\)(.*\n)+"
        r"Train again on this base: `dvc repro train`\."
    )
    with pytest.raises(ModelError, match=message):
        load_adapter(initialize(wide(tiny_config), seed=0), adapter)


def test_an_adapter_with_missing_and_unexpected_tensors(adapter, tiny_config):
    weights = mx.load(str(adapter / "adapters.safetensors"))
    mx.eval(weights)
    weights["model.layers.0.mlp.up_proj.lora_a"] = weights.pop(
        "model.layers.0.self_attn.q_proj.lora_a"
    )
    mx.save_safetensors(str(adapter / "adapters.safetensors"), weights)
    message = r"q_proj\.lora_a: missing\n  model\.layers\.0\.mlp\.up_proj\.lora_a: unexpected"
    with pytest.raises(ModelError, match=message):
        load_adapter(initialize(tiny_config, seed=0), adapter)


def test_an_adapter_may_not_bring_weights_of_the_base(adapter, tiny_config):
    weights = mx.load(str(adapter / "adapters.safetensors"))
    mx.eval(weights)
    weights["model.norm.weight"] = mx.zeros(16)
    mx.save_safetensors(str(adapter / "adapters.safetensors"), weights)
    with pytest.raises(ModelError, match=r"model\.norm\.weight: unexpected"):
        load_adapter(initialize(tiny_config, seed=0), adapter)


def test_an_adapter_of_a_deeper_model(tiny_config, adapter):
    with pytest.raises(ModelError, match=r"model\.layers\.1\..*: unexpected"):
        load_adapter(initialize({**tiny_config, "num_hidden_layers": 1}, seed=0), adapter)


def test_an_adapter_that_says_another_rank_than_it_has(adapter, tiny_config):
    config = read_json(adapter / "adapter_config.json")
    config["lora_parameters"]["rank"] = 5
    write_json(adapter / "adapter_config.json", config)
    with pytest.raises(ModelError, match=r"lora_a: file \(16, 4\), model \(16, 5\)"):
        load_adapter(initialize(tiny_config, seed=0), adapter)


def test_an_adapter_of_whole_numbers(adapter, tiny_config):
    weights = mx.load(str(adapter / "adapters.safetensors"))
    whole = {name: mx.zeros(value.shape, mx.int32) for name, value in weights.items()}
    mx.save_safetensors(str(adapter / "adapters.safetensors"), whole)
    with pytest.raises(ModelError, match=r"lora_a: has type mlx\.core\.int32; must be a kind of"):
        load_adapter(initialize(tiny_config, seed=0), adapter)


REMEDY = r"Train again: `dvc repro --force train`\."
CONFIGS = {
    "{": r"is no JSON",
    "[]": r"holds \[\]; must hold an object",
    "{}": r"\n  fine_tune_type: is missing\n  num_layers: is missing",
    '{"fine_tune_type": "qlora", "num_layers": 2}': r'fine_tune_type: is "qlora"; must be lora',
    '{"fine_tune_type": "lora", "num_layers": "2"}': r'num_layers: is "2"; must be a whole number',
    '{"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": true,'
    ' "dropout": 0}}': r"scale: is true; must be a fin.*\n  lora_parameters.keys: is mis",
    '{"fine_tune_type": "full", "num_layers": 2, "tensors": "all"}': r'tensors: is "all"; must',
}


@pytest.mark.parametrize("text", CONFIGS)
def test_a_damaged_adapter_config(adapter, tiny_config, text):
    (adapter / "adapter_config.json").write_text(text)
    message = rf"(?s)adapter_config\.json: .*{CONFIGS[text]}.*{REMEDY}"
    with pytest.raises(ModelError, match=message):
        load_adapter(initialize(tiny_config, seed=0), adapter)


@pytest.mark.parametrize("kept", [None, 0, 10, -1])
def test_adapter_weights_that_were_lost_or_cut(adapter, tiny_config, kept):
    path = adapter / "adapters.safetensors"
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[:kept])
    with pytest.raises(ModelError, match=rf"{path}: is no readable safetensors .*\n{REMEDY}"):
        load_adapter(initialize(tiny_config, seed=0), adapter)
