"""What follows from the loop's settings."""

import dataclasses

import pytest

from tests.train.test_loop import SETTINGS


def changed(**changes):
    return dataclasses.replace(SETTINGS, **changes)


def test_documents_of_a_step():
    assert changed(batch_size=7).documents_per_step(100) == 7
    assert changed(batch_size=None, batch_tokens=1000).documents_per_step(300) == 3
    assert changed(batch_size=None, batch_tokens=100).documents_per_step(300) == 1


@pytest.mark.parametrize(
    ("batch_size", "splits", "longest", "vocab_size", "tokens"),
    [
        (4, 1, 64, 640, 8192),  # a small vocabulary: as large as it gets
        (4, 2, 512, 128256, 1024),  # a large one: no larger than what training holds
        (1, 16, 512, 128256, 512),
        (64, 1, 512, 128256, 8192),
        (1, 1, 16, 128256, 130),  # but not less than a few logits
    ],
)
def test_a_validation_batch_takes_no_more_memory_than_a_training_batch(
    batch_size, splits, longest, vocab_size, tokens
):
    settings = changed(batch_size=batch_size, grad_accumulation_steps=splits)
    assert settings.evaluation_tokens(longest, vocab_size) == tokens
