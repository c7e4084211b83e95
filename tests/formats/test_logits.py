"""Logits of a model on held-out rows, kept in a file."""

import numpy as np

from pipeline.device import mx
from pipeline.formats.logits import PROOF_DOCUMENTS, PROOF_TOKENS, logits_of, proof_inputs


def test_logits_are_those_of_all_rows_at_once(tiny_model, tmp_path):
    inputs = mx.array([[1, 5, 9, 33], [2, 60, 7, 8]])
    found = logits_of(tiny_model, inputs, tmp_path)
    assert np.abs(found - np.array(tiny_model(inputs))).max() < 1e-5
    assert list(tmp_path.iterdir()) == []


def test_the_proof_takes_rows_of_held_out_text(make_store):
    store = make_store(count=PROOF_DOCUMENTS + 3, shortest=4, longest=PROOF_TOKENS + 40)
    inputs = np.array(proof_inputs(store))
    assert inputs.shape == (PROOF_DOCUMENTS, min(PROOF_TOKENS, store.lengths[:8].max()))
    for row, ids in enumerate(inputs):
        length = min(store.lengths[row], inputs.shape[1])
        assert ids[:length].tolist() == store.tokens(row)[:length].tolist()
        assert not ids[length:].any()
