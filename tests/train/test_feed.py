"""The data of a run: the micro-batches of each step, and the batches of a validation."""

import dataclasses

import numpy as np
import pytest

from pipeline.train.feed import Feed, TrainingData
from tests.train.test_loop import SETTINGS


@pytest.fixture
def make_feed(make_store):
    stores = make_store(), make_store("validation", count=9, seed=1)
    return lambda **changes: Feed(TrainingData(*stores), dataclasses.replace(SETTINGS, **changes))


def inputs(micro_batches):
    return [np.array(batch.inputs).tolist() for graphs in micro_batches for batch in graphs]


def test_a_step_is_a_pure_function_of_its_number(make_feed):
    feed, again = make_feed(), make_feed()
    again.micro_batches(7)
    assert inputs(feed.micro_batches(2)) == inputs(again.micro_batches(2))
    assert inputs(feed.micro_batches(1)) != inputs(feed.micro_batches(2))


def test_one_batch_is_repeated_where_it_is_to_be_overfitted(make_feed):
    feed = make_feed(overfit_one_batch=True)
    assert inputs(feed.micro_batches(1)) == inputs(feed.micro_batches(5))


@pytest.mark.parametrize(
    ("limit", "tokens", "count"), [(None, None, 9), (4, None, 4), (50, None, 9), (None, 1, 2)]
)
def test_the_first_documents_are_validated_on(make_feed, limit, tokens, count):
    bounds = {"validation_documents": limit, "validation_tokens": tokens}
    feed = make_feed(**bounds, arrangement="bucketed")
    found = sum(int((np.array(b.segment_ids) >= 0).any(1).sum()) for b in feed.validation_batches())
    assert found == count == feed.validated.count
