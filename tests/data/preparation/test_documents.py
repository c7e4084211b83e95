"""Tokenized rows are made to fit the model, and go into the store of their split."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.data.preparation.documents import cut
from pipeline.data.tokenize.document import Encoded


@given(length=st.integers(2, 60), max_seq_len=st.integers(2, 20), data=st.data())
def test_splitting_keeps_every_target_once(length, max_seq_len, data):
    overlap = data.draw(st.integers(0, max_seq_len - 2))
    ids = np.arange(length, dtype=np.int32)
    mask = data.draw(npst.arrays(np.bool_, length))
    mask[0] = False
    weights = data.draw(npst.arrays(np.float32, length, elements=st.sampled_from([0.25, 0.5, 1.0])))
    weights[~mask] = 1
    document = Encoded(ids, mask, weights)
    pieces = list(cut(document, max_seq_len, keep_all=True, overlap_tokens=overlap))
    learnt = [id for piece in pieces for id in piece.ids[piece.target_mask].tolist()]
    assert learnt == ids[mask].tolist(), "every target once, in order"
    for piece in pieces:
        assert 2 <= len(piece.ids) <= max_seq_len
        assert not piece.target_mask[0]
        expected = np.where(piece.target_mask, weights[piece.ids], 1)
        found = np.ones(len(piece.ids)) if piece.weights is None else piece.weights
        np.testing.assert_array_equal(found, expected)
        assert (piece.weights is None) == (expected == 1).all()
    for before, after in pairwise(pieces):
        shared = overlap + 1
        assert after.ids[:shared].tolist() == before.ids[-shared:].tolist(), "context, and"
        assert not after.target_mask[:shared].any(), "it is not learnt again"
        assert len(after.ids) > shared
    (first,) = cut(document, max_seq_len, keep_all=False, overlap_tokens=overlap)
    assert first.ids.tolist() == ids[:max_seq_len].tolist()
