"""Weights that a run starts from: the same model as before, or refused with all differences."""

import json

import numpy as np
import pytest

from pipeline.device import mx
from pipeline.errors import ConfigError
from pipeline.model.initial import start_from
from pipeline.model.network.adapters import AdapterSettings, apply, save_adapter
from pipeline.model.network.tree import trainable_arrays
from pipeline.model.scratch import initialize

TOKENS = mx.array([[1, 5, 9, 33, 2, 60]])
CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
USUAL = {
    "mode": "lora",
    "rank": 4,
    "alpha": 8.0,
    "dropout": 0.0,
    "num_layers": None,
    "targets": ("q_proj", "v_proj"),
}
NORMS = {"mode": "tensors", "tensors": ("*norm*",)}


def made(config, seed=1, **changes):
    """Make a model trainable; give it with its `adapter_config.json`."""
    model = initialize(config, seed=0)
    return model, apply(model, AdapterSettings(**USUAL | changes), seed)


@pytest.fixture
def trained(tiny_config, tmp_path):
    """Write weights as if they had been trained; give the logits of their model."""

    def train(**changes):
        model, config = made(tiny_config, **changes)
        for index, (name, value) in enumerate(trainable_arrays(model).items()):
            noise = mx.random.normal(value.shape, scale=0.05, key=mx.random.key(index))
            model.load_weights([(name, value + noise)], strict=False)
        save_adapter(tmp_path, trainable_arrays(model), config)
        return model(TOKENS)

    return train


@pytest.mark.parametrize(
    "changes",
    [{}, {"mode": "dora"}, {"mode": "head"}, {"mode": "full"}, NORMS, {"targets": ("*",)}],
    ids=str,
)
def test_the_model_is_the_one_that_was_trained(tiny_config, tmp_path, trained, changes):
    wanted = trained(**changes)
    model, config = made(tiny_config, seed=2, **changes)
    assert not mx.array_equal(model(TOKENS), wanted)
    start_from(tmp_path, model, config)
    assert mx.array_equal(model(TOKENS), wanted)
    assert trainable_arrays(model).keys() == mx.load(str(tmp_path / WEIGHTS)).keys()


def test_weights_take_the_types_that_the_run_trains(tiny_config, tmp_path, trained):
    trained(mode="full")
    model, config = made(tiny_config, mode="full")
    model.set_dtype(mx.bfloat16)
    start_from(tmp_path, model, config)
    weights = mx.load(str(tmp_path / WEIGHTS))
    for name, value in trainable_arrays(model).items():
        assert mx.array_equal(value, weights[name].astype(mx.bfloat16))


def test_an_adapter_of_mlx_lm_may_be_the_start(tiny_config, tmp_path, trained):
    wanted = trained()
    written = json.loads((tmp_path / CONFIG).read_text())
    del written["lora_parameters"]["keys"]  # mlx-lm writes its whole configuration, and none here
    written |= {"num_layers": -1, "learning_rate": 1e-5, "lora_schedule": None}
    (tmp_path / CONFIG).write_text(json.dumps(written))
    model, config = made(tiny_config, seed=2, dropout=0.1)
    start_from(tmp_path, model, config)
    model.eval()
    assert mx.array_equal(model(TOKENS), wanted)


def refusal(tmp_path, model, config):
    with pytest.raises(ConfigError) as caught:
        start_from(tmp_path, model, config)
    return str(caught.value).splitlines()


def test_all_differences_are_told_at_once_and_nothing_is_taken(tiny_config, tmp_path, trained):
    trained()
    model, config = made(
        tiny_config, mode="dora", rank=8, alpha=4.0, targets=("q_proj", "gate_proj")
    )
    before = {name: np.array(value) for name, value in trainable_arrays(model).items()}
    lines = refusal(tmp_path, model, config)
    assert lines[1:4] == [
        "  train.mode: lora there, dora here",
        "  lora.rank: 4 there, 8 here",
        "  the scale of the update (lora.alpha, lora.rank, lora.rslora): 2.0 there, 0.5 here",
    ]
    assert "trained only there" in lines[4]
    assert "v_proj.lora_a" in lines[4]
    assert "trained only here" in lines[5]
    assert "gate_proj.lora_a" in lines[5]
    assert "shapes of 4 tensors (lora.rank, or another base)" in lines[6]
    assert lines[7:] == ["Set these keys as they were there, or train.init_from=null."]
    for name, value in trainable_arrays(model).items():
        np.testing.assert_array_equal(np.array(value), before[name])


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        ({"alpha": 8.0}, {"alpha": 16.0}, "the scale of the update"),
        ({"rank": 4}, {"rslora": True}, "the scale of the update"),
        ({"mode": "full"}, {"mode": "head"}, "trained only there"),
        ({"mode": "lora"}, {"mode": "full"}, "train.mode: lora there, full here"),
        ({"num_layers": 1}, {}, "trained only here (lora.targets, lora.num_layers"),
    ],
)
def test_each_difference_is_refused(tiny_config, tmp_path, trained, there, here, words):
    trained(**there)
    assert any(words in line for line in refusal(tmp_path, *made(tiny_config, **here)))


def test_an_adapter_of_a_wider_base_is_refused(tiny_config, tmp_path, trained):
    trained()
    wider = {**tiny_config, "hidden_size": 2 * tiny_config["hidden_size"]}
    lines = refusal(tmp_path, *made(wider))
    assert "or another base)" in lines[1]
    assert len(lines) == 3


def test_integers_are_no_weights(tiny_config, tmp_path, trained):
    trained()
    weights = {
        name: value.astype(mx.int32) for name, value in mx.load(str(tmp_path / WEIGHTS)).items()
    }
    mx.save_safetensors(str(tmp_path / WEIGHTS), weights)
    assert "no kind of float" in refusal(tmp_path, *made(tiny_config))[1]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (CONFIG, b"{", "is no JSON"),
        (CONFIG, b"{}", "fine_tune_type"),
        (CONFIG, b'{"fine_tune_type": "lora", "lora_parameters": {"rank": 0}}', "rank"),
        (WEIGHTS, b"x", "is no readable safetensors file"),
    ],
)
def test_damaged_files_are_refused(tiny_config, tmp_path, trained, name, content, words):
    trained()
    (tmp_path / name).write_bytes(content)
    lines = refusal(tmp_path, *made(tiny_config))
    assert words in "".join(lines)
    assert lines[-1] == "Give another folder as train.init_from, or null."
