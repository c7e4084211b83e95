"""A quantised base: as mlx-lm makes it, refused where it would be only half of one."""

import pytest

from pipeline.device import mx
from pipeline.errors import ConfigError
from pipeline.files import read_json, sha256_path
from pipeline.model.network import upstream
from pipeline.model.network.adapters import apply
from pipeline.model.network.base import count_parameters, load_base, write_manifest
from pipeline.model.network.tree import quantized_layers
from pipeline.model.quantize import quantizable, write_quantized
from pipeline.model.scratch import initialize, save_scratch
from pipeline.model.source.folder import read_config
from tests.support.modes import settings_of

TOKENS = mx.array([[1, 5, 9, 33, 2, 60], [7, 7, 3, 4, 5, 6]])


@pytest.fixture
def folder(tmp_path, tiny_config):
    """A model whose widths are 64 and 128."""
    config = {**tiny_config, "hidden_size": 64, "intermediate_size": 128}
    (tmp_path / "model").mkdir()
    save_scratch(initialize(config, seed=0), config, tmp_path / "model")
    return tmp_path / "model"


def quantised(folder, tmp_path, bits=4, group_size=64):
    base = tmp_path / f"base{bits}_{group_size}"
    base.mkdir()
    write_quantized(folder, base, bits, group_size)
    write_manifest(base, base, str(folder), "hash")
    return base


@pytest.mark.parametrize(("bits", "group_size"), [(4, 64), (8, 64), (4, 32)])
def test_it_is_what_mlx_lm_makes_and_reads(folder, tmp_path, bits, group_size):
    base = quantised(folder, tmp_path, bits, group_size)
    theirs, config = upstream.load_model(folder, lazy=True)
    theirs, config = upstream.quantize_model(theirs, config, group_size, bits)
    loaded = load_base(base, "float32")
    assert mx.array_equal(loaded.model(TOKENS), theirs(TOKENS))
    assert mx.array_equal(upstream.load_model(base)[0](TOKENS), theirs(TOKENS))
    assert read_json(base / "config.json")["quantization"] == config["quantization"]
    assert len(quantized_layers(loaded.model)) == 2 * 7 + 1
    assert count_parameters(loaded.model)[1] == count_parameters(load_plain(folder))[1]


def test_a_head_in_the_files_is_kept_where_config_json_is_silent(folder, tmp_path):
    config = read_json(folder / "config.json")
    untied = initialize({**config, "tie_word_embeddings": False}, seed=0)
    del config["tie_word_embeddings"]
    save_scratch(untied, config, folder)
    base = quantised(folder, tmp_path)
    assert read_config(base)["tie_word_embeddings"] is False
    assert len(quantized_layers(load_base(base, "float32").model)) == 2 * 7 + 2


def load_plain(folder):
    return upstream.load_model(folder, lazy=True)[0]


def test_bits_and_group_size_change_the_base(folder, tmp_path):
    settings = [(4, 64), (8, 64), (4, 32)]
    bases = [quantised(folder, tmp_path, *each) for each in settings]
    sizes = [read_json(base / "manifest.json")["files"][0]["size"] for base in bases]
    assert sizes[0] < sizes[2] < sizes[1]
    plain = load_plain(folder)(TOKENS)
    errors = [float(mx.std(load_base(b, "float32").model(TOKENS) - plain)) for b in bases]
    assert errors[1] < 0.1 * errors[0]
    assert errors[1] < errors[2] < errors[0]


def test_the_model_it_is_made_from_is_left_alone(folder, tmp_path):
    before = sha256_path(folder)
    quantised(folder, tmp_path)
    assert sha256_path(folder) == before


def test_a_scratch_model_is_packed_where_it_lies(folder, tmp_path):
    other = quantised(folder, tmp_path)
    write_quantized(folder, folder, 4, 64)
    write_manifest(folder, folder, "scratch", "hash")
    assert mx.array_equal(
        load_base(folder, "auto").model(TOKENS), load_base(other, "auto").model(TOKENS)
    )


def test_widths_that_do_not_divide_are_listed(folder, tmp_path):
    message = (
        r"model\.quantize_group_size=128 does not divide the width of these layers:\n"
        r"  model\.embed_tokens: 64\n(?!(.*\n)*.*down_proj)(.*\n)+"
        r"Give a smaller one \(32, 64 and 128 are there\), or set model\.quantize_bits=null\."
    )
    with pytest.raises(ConfigError, match=message):
        quantised(folder, tmp_path, group_size=128)


def test_nothing_is_rounded_twice(folder, tmp_path):
    base = quantised(folder, tmp_path)
    message = r"model\.quantize_bits=8: .* is quantised already\.\nSet model\.quantize_bits=null"
    with pytest.raises(ConfigError, match=message):
        quantised(base, tmp_path, 8)


def test_what_can_be_quantised_is_known_before(folder, tmp_path):
    assert quantizable(read_config(folder), 64)
    assert not quantizable(read_config(folder), 128)
    assert not quantizable(read_config(quantised(folder, tmp_path)), 64)


@pytest.mark.parametrize("kind", ["lora", "dora", "head"])
def test_adapters_of_a_quantised_base_count_as_of_a_plain_one(folder, tmp_path, kind):
    models = [load_plain(folder), load_base(quantised(folder, tmp_path), "float32").model]
    counts = []
    for model in models:
        apply(model, settings_of(kind), seed=0)
        counts.append(count_parameters(model))
    assert counts[0] == counts[1]
