"""Every document once an epoch, and a step's documents are a pure function of seed and step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.order import BatchOrder, random_keys
from pipeline.errors import ConfigError

LONGEST = 90
lengths_of_documents = st.lists(st.integers(2, LONGEST), min_size=1, max_size=60).map(
    lambda lengths: np.array(lengths, np.int64)
)
sizes = st.integers(1, 12).map(lambda size: {"batch_size": size}) | st.integers(LONGEST, 400).map(
    lambda tokens: {"batch_tokens": tokens}
)
quick = settings(deadline=None, max_examples=50)


@quick
@given(lengths_of_documents, sizes, st.integers(0, 2**32), st.integers(0, 3))
def test_an_epoch_has_every_document_once(lengths, size, seed, epoch):
    order = BatchOrder(lengths, seed=seed, **size)
    before = sum(order.steps_in_epoch(earlier) for earlier in range(epoch))
    steps = range(before + 1, before + order.steps_in_epoch(epoch) + 1)
    assert [order.locate(step) for step in steps] == [(epoch, i) for i in range(len(steps))]
    found = np.concatenate([order.documents(step) for step in steps])
    assert sorted(found.tolist()) == list(range(len(lengths)))


@quick
@given(lengths_of_documents, sizes, st.integers(0, 99), st.permutations(range(1, 25)))
def test_a_step_is_a_pure_function(lengths, size, seed, steps):
    in_order = BatchOrder(lengths, seed=seed, **size)
    expected = {step: in_order.documents(step).tolist() for step in sorted(steps)}
    any_order = BatchOrder(lengths, seed=seed, **size)
    assert {step: any_order.documents(step).tolist() for step in steps} == expected
    last = BatchOrder(lengths, seed=seed, **size).documents(24)
    assert last.tolist() == expected[24]


@quick
@given(lengths_of_documents, sizes)
def test_batches_have_the_size_asked_for(lengths, size):
    order = BatchOrder(lengths, seed=0, **size)
    batches = [order.documents(step) for step in range(1, order.steps_in_epoch(0) + 1)]
    if "batch_size" in size:
        assert sorted(map(len, batches), reverse=True)[:-1] == (
            [size["batch_size"]] * (len(batches) - 1)
        )
    else:
        assert all(lengths[batch].sum() <= size["batch_tokens"] for batch in batches)


def test_membership_and_order_are_new_every_epoch_and_with_every_seed():
    lengths = np.full(64, 10)
    epochs = {}
    for seed in (0, 1):
        order = BatchOrder(lengths, seed=seed, batch_size=8)
        for epoch in (0, 1):
            steps = range(8 * epoch + 1, 8 * epoch + 9)
            epochs[seed, epoch] = {frozenset(order.documents(step).tolist()) for step in steps}
    assert len(set.union(*epochs.values())) == 32, "no batch came twice"


def test_a_batch_holds_like_lengths():
    lengths = np.random.default_rng(0).integers(2, 1000, 4096)
    order = BatchOrder(lengths, seed=0, batch_size=16)
    batches = [lengths[order.documents(step)] for step in range(1, 257)]
    assert np.mean([batch.mean() / batch.max() for batch in batches]) > 0.9
    means = np.array([batch.mean() for batch in batches])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2, "their order is shuffled"


def test_token_batches_are_nearly_full():
    lengths = np.random.default_rng(0).integers(2, 100, 4096)
    order = BatchOrder(lengths, seed=0, batch_tokens=2000)
    sizes = [lengths[order.documents(step)].sum() for step in range(1, order.steps_in_epoch(0) + 1)]
    assert np.mean(sizes) > 0.9 * 2000


def test_a_document_that_no_batch_can_hold():
    with pytest.raises(ConfigError, match=r"train.batch_tokens=8: the longest document has 9 tok"):
        BatchOrder(np.array([4, 9]), seed=0, batch_tokens=8)


def test_the_order_stays_as_it_was_published():
    """Resumed runs rely on it; NumPy keeps the raw stream of PCG64 the same for ever."""
    assert random_keys(7, 2, 2).tolist() == [5127646655721812508, 8211625751441680169]
    order = BatchOrder(np.arange(2, 12), seed=7, batch_size=3)
    assert [order.documents(step).tolist() for step in range(1, 5)] == [
        [6, 7, 8],
        [3, 4, 5],
        [0, 1, 2],
        [9],
    ]
