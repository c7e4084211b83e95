"""A document of ids and weights, and what documents of a row repeat."""

import numpy as np
import pytest

from pipeline.data.tokenize.document import Encoded, repeated_tokens, weighted


def test_runs_of_weights_become_a_mask_and_weights():
    document = weighted([5, 6, 7, 8], [(2, 0.0), (2, 1.0)])
    assert document.ids.tolist() == [5, 6, 7, 8]
    assert document.target_mask.tolist() == [False, False, True, True]
    assert document.weights is None
    half = weighted([5, 6, 7], [(1, 1.0), (1, 0.5), (1, 0.0)])
    assert half.target_mask.tolist() == [False, True, False], "nothing predicts the first token"
    assert half.weights is not None
    assert half.weights.tolist() == [1, 0.5, 1]


@pytest.mark.parametrize(
    ("rows", "count"),
    [([], 0), ([[1, 2]], 0), ([[1, 2], [1, 2, 3], [1, 9]], 3), ([[1, 2, 3], [1, 2]], 2)],
)
def test_the_beginning_that_is_read_again(rows, count):
    arrays = [np.array(row, np.int32) for row in rows]
    assert repeated_tokens([Encoded(ids, ids > 0) for ids in arrays]) == count
