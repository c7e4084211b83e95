"""Logits of a model on held-out rows, kept in a file."""

import gc

import numpy as np

from pipeline.data.batches import PROOF_DOCUMENTS, PROOF_TOKENS
from pipeline.device import mx
from pipeline.formats.logits import logits_of, proof_inputs
from pipeline.model.network.tree import named_arrays
from pipeline.model.scratch import initialize

INPUTS = mx.array([[1, 5, 9, 33], [2, 60, 7, 8]])


def test_logits_are_those_of_the_model_to_the_bit(tiny_model, tmp_path):
    expected = np.array(tiny_model(INPUTS))
    assert np.array_equal(logits_of(tiny_model, INPUTS, tmp_path), expected)
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_is_used_twice_keeps_its_weights(tiny_model, tmp_path):
    tiny_model.model.layers[1] = tiny_model.model.layers[0]
    expected = np.array(tiny_model(INPUTS))
    assert np.array_equal(logits_of(tiny_model, INPUTS, tmp_path), expected)


def test_one_block_is_in_memory_at_a_time(tiny_config, tmp_path):
    config = {**tiny_config, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12}
    model = initialize(config, seed=0)
    size = sum(value.nbytes for value in named_arrays(model.parameters()).values())
    mx.save_safetensors(str(tmp_path / "w.safetensors"), named_arrays(model.parameters()))
    model.load_weights(str(tmp_path / "w.safetensors"))
    model.set_dtype(mx.float16)
    model.set_dtype(mx.float32)
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    logits_of(model, INPUTS, tmp_path)
    assert mx.get_peak_memory() - before < size / 4


def test_the_proof_takes_rows_of_held_out_text(make_store):
    store = make_store(count=PROOF_DOCUMENTS + 3, shortest=4, longest=PROOF_TOKENS + 40)
    inputs = np.array(proof_inputs(store))
    assert inputs.shape == (PROOF_DOCUMENTS, min(PROOF_TOKENS, store.lengths[:8].max()))
    for row, ids in enumerate(inputs):
        length = min(store.lengths[row], inputs.shape[1])
        assert ids[:length].tolist() == store.tokens(row)[:length].tolist()
        assert not ids[length:].any()
