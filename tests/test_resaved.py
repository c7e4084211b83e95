"""SmolLM2 as transformers 5 saves it again: the same model, in other words."""

import argparse
import inspect
import math

import numpy as np
import pytest

from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.device import mx
from pipeline.external.gguf.convert import converted
from pipeline.external.tokenizer_files import tokenizer_hash
from pipeline.files import read_json
from pipeline.model.network import upstream
from pipeline.model.network.base import load_base, write_manifest
from pipeline.model.network.forward import forward
from pipeline.sums import standard_deviation

NUM_TOKENS = 1500


@pytest.fixture(scope="module")
def ids(smollm2):
    """The first tokens of a text that is on every machine."""
    tokenizer = load_tokenizer(converted(smollm2))
    return tokenizer.encode(inspect.getsource(argparse), add_special_tokens=False)[:NUM_TOKENS]


def perplexity(logits, ids):
    """Compute it from logits, [tokens, vocabulary], in float64."""
    places = np.array(logits, dtype=np.float64)[:-1]
    largest = places.max(-1, keepdims=True)
    totals = largest[:, 0] + np.log(np.exp(places - largest).sum(-1))
    return math.exp((totals - places[np.arange(len(places)), ids[1:]]).mean())


def computed(model, ids):
    """Compute logits, [tokens, vocabulary]."""
    model.set_dtype(mx.float32)
    return np.array(forward(model, mx.array([ids]))[0])


def test_a_model_saved_again_is_the_same_model(smollm2, smollm2_base, ids, readers, tmp_path):
    torch, transformers = readers("torch"), readers("transformers")
    folder, base = tmp_path / "saved", tmp_path / "base"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(converted(smollm2)).float().eval()
    theirs.save_pretrained(folder)
    config = read_json(folder / "config.json")
    assert "rope_theta" not in config
    assert config["rope_parameters"]["rope_theta"] == 100_000

    base.mkdir()
    write_manifest(base, folder, str(folder), tokenizer_hash(converted(smollm2)))
    original = computed(load_base(smollm2_base, "float32").model, ids)
    saved = computed(load_base(base, "float32").model, ids)
    alone = computed(upstream.load_model(folder)[0], ids)
    with torch.no_grad():
        reference = theirs(torch.tensor([ids])).logits[0].numpy()
    found = {
        name: perplexity(logits, ids)
        for name, logits in {
            "original": original,
            "saved again": saved,
            "torch": reference,
            "saved again, as mlx-lm alone reads it": alone,
        }.items()
    }
    print(found)
    assert len(ids) == NUM_TOKENS
    assert np.array_equal(original, saved)
    difference = np.abs(saved - reference).max() / float(standard_deviation(mx.array(reference)))
    assert difference < 1e-3
    assert abs(found["saved again"] / found["torch"] - 1) < 1e-4
    assert found["saved again, as mlx-lm alone reads it"] / found["torch"] > 1.02
