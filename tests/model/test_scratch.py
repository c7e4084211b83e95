"""A new model: it knows nothing, it is the same each time, and others can read it."""

import math

import pytest

from pipeline.device import mx
from pipeline.errors import ConfigError
from pipeline.files import read_json, sha256_file
from pipeline.model.network.build import build
from pipeline.model.network.forward import forward
from pipeline.model.network.tree import named_arrays
from pipeline.model.scratch import initialize, llama_config, save_scratch
from pipeline.model.source.check import check_weights
from pipeline.model.source.folder import read_config
from tests.support.small import TINY_SHAPE

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}


def loss(model, vocab_size):
    inputs = mx.random.randint(0, vocab_size, (8, 33), key=mx.random.key(5))
    logits = forward(model, inputs[:, :-1]).reshape(-1, vocab_size)
    targets = inputs[:, 1:].reshape(-1)
    return float(mx.mean(mx.logsumexp(logits, -1) - logits[mx.arange(len(targets)), targets]))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("width", "blocks", "vocab_size"), [(64, 2, 1000), (96, 3, 640)])
@pytest.mark.parametrize("seed", range(6))
def test_the_first_loss_is_that_of_a_guess(tied, width, blocks, vocab_size, seed):
    changes = {"hidden_size": width, "num_hidden_layers": blocks, "tie_word_embeddings": tied}
    config = llama_config({**TINY_SHAPE, **changes}, vocab_size, SPECIAL)
    assert loss(initialize(config, seed), vocab_size) == pytest.approx(
        math.log(vocab_size), rel=0.02
    )


def test_equal_seeds_give_equal_weights_and_others_do_not(tiny_config):
    first, again, other = (
        named_arrays(initialize(tiny_config, seed=seed).parameters()) for seed in (3, 3, 4)
    )
    assert all(mx.array_equal(first[name], again[name]) for name in first)
    assert not any(mx.array_equal(first[name], other[name]) for name in first if "norm" not in name)


def test_initialising_leaves_the_global_random_state_out(tiny_config):
    mx.random.seed(1)
    first = named_arrays(initialize(tiny_config, seed=0).parameters())
    mx.random.seed(2)
    again = named_arrays(initialize(tiny_config, seed=0).parameters())
    assert all(mx.array_equal(first[name], again[name]) for name in first)


def test_deviations_are_those_that_were_meant():
    shape = {**TINY_SHAPE, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 8}
    weights = named_arrays(initialize(llama_config(shape, 64, SPECIAL), seed=0).parameters())
    for name, value in weights.items():
        if value.ndim == 1:
            first = 0.5 if name == "model.norm.weight" else 1.0
            assert mx.array_equal(value, mx.full(value.shape, first)), name
            continue
        writes = "o_proj" in name or "down_proj" in name
        meant = 0.4 / 8 if "embed" in name else 0.4**0.5 / 8 / (4 if writes else 1)
        assert float(mx.std(value)) == pytest.approx(meant, rel=0.1), name
        assert abs(float(mx.mean(value))) < 0.1 * meant


def test_no_two_matrices_are_equal(tiny_model):
    matrices = [value for value in named_arrays(tiny_model.parameters()).values() if value.ndim > 1]
    firsts = {float(value[0, 0]) for value in matrices}
    assert len(firsts) == len(matrices)


def test_the_config_names_the_shape_and_what_the_tokenizer_has(tiny_config):
    config = llama_config(TINY_SHAPE, 60, SPECIAL)
    assert config == {**tiny_config, "vocab_size": 60}
    assert {name: config[name] for name in TINY_SHAPE} == {**TINY_SHAPE, "vocab_size": 60}
    assert config["model_type"] == "llama"
    assert config["eos_token_id"] == 2
    assert build(config).args.vocab_size == 60


def test_a_saved_scratch_model_passes_the_check_of_any_other(tiny_model, tiny_config, tmp_path):
    save_scratch(tiny_model, tiny_config, tmp_path)
    assert read_config(tmp_path) == read_json(tmp_path / "config.json") == tiny_config
    check_weights(tmp_path, tiny_config)


def test_equal_models_give_equal_files(tiny_config, tmp_path):
    hashes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_scratch(initialize(tiny_config, seed=0), tiny_config, tmp_path / name)
        hashes.append(sha256_file(tmp_path / name / "model.safetensors"))
    assert hashes[0] == hashes[1]


def test_a_shape_that_contradicts_itself_is_refused_with_all_its_problems():
    shape = {**TINY_SHAPE, "hidden_size": 20, "num_key_value_heads": 3}
    message = (
        r"model\.scratch cannot be built:\n"
        r"  model\.scratch\.hidden_size=20 must be a multiple of twice num_attention_heads=4\n"
        r"  model\.scratch\.num_attention_heads=4 must be a multiple of num_key_value_heads=3"
    )
    with pytest.raises(ConfigError, match=message):
        llama_config(shape, 64, SPECIAL)
