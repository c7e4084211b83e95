"""Settings of the training loop, and what follows from them."""

import dataclasses

import pytest

from pipeline.train.settings import (
    EVALUATION_BATCH_TOKENS,
    EVALUATION_LOGITS,
    evaluation_batch_tokens,
)
from tests.train.test_loop import SETTINGS


@pytest.mark.parametrize(
    ("batch_size", "batch_tokens", "documents"), [(5, None, 5), (None, 100, 3), (None, 10, 1)]
)
def test_documents_of_a_step(batch_size, batch_tokens, documents):
    given = {"batch_size": batch_size, "batch_tokens": batch_tokens}
    assert dataclasses.replace(SETTINGS, **given).documents_per_step(longest=32) == documents


def test_a_validation_batch_is_as_large_as_its_logits_allow():
    vocab_size = EVALUATION_LOGITS // 64
    assert SETTINGS.evaluation_tokens(8, vocab_size) == 64
    assert SETTINGS.evaluation_tokens(40, vocab_size) == 3 * 40  # a micro-batch of training
    assert SETTINGS.evaluation_tokens(8, 16) == EVALUATION_BATCH_TOKENS


@pytest.mark.parametrize(("vocab_size", "tokens"), [(640, 8192), (49_152, 341), (1 << 25, 1)])
def test_batches_are_smaller_where_the_vocabulary_is_large(vocab_size, tokens):
    assert evaluation_batch_tokens(vocab_size) == tokens
