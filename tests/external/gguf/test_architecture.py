"""Names, order and config of the models in GGUF files, and what is refused of them."""

import json
import re

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.external.gguf.architecture import llama3_factors, reordered
from pipeline.external.gguf.convert import convert
from tests.support.gguf_files import HEADS, WIDTH, interleaved, weights


def test_a_bias_is_put_back_as_its_rows_are():
    bias = np.arange(8.0)
    assert reordered(bias, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert interleaved(reordered(bias, 2), 2).tolist() == bias.tolist()


@pytest.mark.parametrize(("like", "has_bias"), [("qwen2", True), ("llama", False)])
def test_a_bias_of_attention_stands_in_the_config(gguf_file, folder, words, like, has_bias):
    arrays = weights(like, len(words["gpt-2"]["tokens"]))
    convert(gguf_file("llama", arrays=arrays), folder)
    assert json.loads((folder / "config.json").read_text())["attention_bias"] is has_bias


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
