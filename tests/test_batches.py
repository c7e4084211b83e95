"""Every document once an epoch, the same in either arrangement, and padding never counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.batches import BatchPlan, arrange, evaluation_batches, random_keys
from pipeline.data.store import TokenStore, TokenStoreWriter
from pipeline.errors import ConfigError

ARRANGEMENTS = ("bucketed", "packed")
LONGEST = 90
lengths_of_documents = st.lists(st.integers(2, LONGEST), min_size=1, max_size=60).map(
    lambda lengths: np.array(lengths, np.int64)
)
sizes = st.integers(1, 12).map(lambda size: {"batch_size": size}) | st.integers(LONGEST, 400).map(
    lambda tokens: {"batch_tokens": tokens}
)
quick = settings(deadline=None, max_examples=50)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Random documents: every length from 2 up, prompts of any length, ids never 0."""
    folder, generator = tmp_path_factory.mktemp("store"), np.random.default_rng(0)
    with TokenStoreWriter(folder, 512) as writer:
        for length in generator.permutation(np.arange(2, LONGEST + 1)):
            mask = np.arange(length) >= generator.integers(1, length)
            writer.add(generator.integers(1, 512, length), mask, None, None)
    return TokenStore(folder)


chosen_documents = st.lists(st.integers(0, LONGEST - 2), min_size=1, max_size=40, unique=True).map(
    lambda documents: np.array(documents, np.int64)
)


def pairs(batches):
    """Read back what each document is to learn: a list of (input, target, counts, weight)."""
    found = {}
    for batch in batches:
        for number, document in enumerate(batch.documents.tolist(), start=1):
            place = batch.segment_ids == number
            assert place.any(axis=1).sum() == 1, "a document stands in one row"
            columns = np.flatnonzero(place.any(axis=0))
            assert np.array_equal(columns, np.arange(columns[0], columns[-1] + 1)), "in one piece"
            parts = (batch.inputs, batch.targets, batch.loss_mask, batch.weights)
            assert document not in found
            found[document] = np.stack([part[place] for part in parts])
    return found


# --- which documents ---


@quick
@given(lengths_of_documents, sizes, st.integers(0, 2**32), st.integers(0, 3))
def test_an_epoch_has_every_document_once(lengths, size, seed, epoch):
    plan = BatchPlan(lengths, seed=seed, **size)
    before = sum(plan.steps_in_epoch(earlier) for earlier in range(epoch))
    steps = range(before + 1, before + plan.steps_in_epoch(epoch) + 1)
    assert [plan.locate(step) for step in steps] == [(epoch, i) for i in range(len(steps))]
    found = np.concatenate([plan.documents(step) for step in steps])
    assert sorted(found.tolist()) == list(range(len(lengths)))


@quick
@given(lengths_of_documents, sizes, st.integers(0, 99), st.permutations(range(1, 25)))
def test_a_step_is_a_pure_function(lengths, size, seed, steps):
    in_order = BatchPlan(lengths, seed=seed, **size)
    expected = {step: in_order.documents(step).tolist() for step in sorted(steps)}
    any_order = BatchPlan(lengths, seed=seed, **size)
    assert {step: any_order.documents(step).tolist() for step in steps} == expected
    last = BatchPlan(lengths, seed=seed, **size).documents(24)
    assert last.tolist() == expected[24]


@quick
@given(lengths_of_documents, sizes)
def test_batches_have_the_size_asked_for(lengths, size):
    plan = BatchPlan(lengths, seed=0, **size)
    batches = [plan.documents(step) for step in range(1, plan.steps_in_epoch(0) + 1)]
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
        plan = BatchPlan(lengths, seed=seed, batch_size=8)
        for epoch in (0, 1):
            steps = range(8 * epoch + 1, 8 * epoch + 9)
            epochs[seed, epoch] = {frozenset(plan.documents(step).tolist()) for step in steps}
    assert len(set.union(*epochs.values())) == 32, "no batch came twice"


def test_a_batch_holds_like_lengths():
    lengths = np.random.default_rng(0).integers(2, 1000, 4096)
    plan = BatchPlan(lengths, seed=0, batch_size=16)
    batches = [lengths[plan.documents(step)] for step in range(1, 257)]
    assert np.mean([batch.mean() / batch.max() for batch in batches]) > 0.9
    means = np.array([batch.mean() for batch in batches])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2, "their order is shuffled"


def test_token_batches_are_nearly_full():
    lengths = np.random.default_rng(0).integers(2, 100, 4096)
    plan = BatchPlan(lengths, seed=0, batch_tokens=2000)
    sizes = [lengths[plan.documents(step)].sum() for step in range(1, plan.steps_in_epoch(0) + 1)]
    assert np.mean(sizes) > 0.9 * 2000


def test_a_document_that_no_batch_can_hold():
    with pytest.raises(ConfigError, match=r"train.batch_tokens=8: the longest document has 9 tok"):
        BatchPlan(np.array([4, 9]), seed=0, batch_tokens=8)


def test_the_order_stays_as_it_was_published():
    """Resumed runs rely on it; NumPy keeps the raw stream of PCG64 the same for ever."""
    assert random_keys(7, 2, 2).tolist() == [5127646655721812508, 8211625751441680169]
    plan = BatchPlan(np.arange(2, 12), seed=7, batch_size=3)
    assert [plan.documents(step).tolist() for step in range(1, 5)] == [
        [6, 7, 8],
        [3, 4, 5],
        [0, 1, 2],
        [9],
    ]


# --- how they lie ---


@quick
@given(documents=chosen_documents, parts=st.integers(1, 50))
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_micro_batches_hold_each_document_whole_and_once(store, arrangement, documents, parts):
    batches = arrange(
        store, documents, arrangement=arrangement, width=LONGEST, num_micro_batches=parts
    )
    assert 1 <= len(batches) <= min(parts, len(documents))
    if arrangement == "bucketed":
        assert len(batches) == min(parts, len(documents))
    found = pairs(batches)
    assert sorted(found) == sorted(documents.tolist())
    for document, (inputs, targets, mask, weights) in found.items():
        tokens = store.tokens(document)
        np.testing.assert_array_equal(inputs, tokens[:-1])
        np.testing.assert_array_equal(targets, tokens[1:])
        np.testing.assert_array_equal(mask, store.target_mask(document)[1:])
        np.testing.assert_array_equal(weights, np.ones(len(tokens) - 1))


@quick
@given(documents=chosen_documents, micro=st.integers(1, 6), lanes=st.integers(1, 4))
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_lanes_part_the_rows_of_a_micro_batch(store, arrangement, documents, micro, lanes):
    whole, parts = (
        arrange(
            store,
            documents,
            arrangement=arrangement,
            width=LONGEST,
            num_micro_batches=micro,
            num_lanes=count,
        )
        for count in (1, lanes)
    )
    parts = iter(parts)
    for batch in whole:
        count = lanes if len(batch.inputs) >= lanes else 1
        beside = [next(parts) for _ in range(count)]
        assert {part.num_lanes for part in beside} == {count}
        sizes = [len(part.inputs) for part in beside]
        assert sum(sizes) == len(batch.inputs)
        assert max(sizes) - min(sizes) <= 1
        together = [document for part in beside for document in part.documents]
        assert together == batch.documents.tolist()
    assert next(parts, None) is None


@quick
@given(documents=chosen_documents, parts=st.integers(1, 5))
def test_both_arrangements_teach_the_same(store, documents, parts):
    weights = np.linspace(0.1, 1.9, len(store), dtype=np.float32)
    bucketed, packed = (
        pairs(
            arrange(
                store,
                documents,
                arrangement=arrangement,
                width=LONGEST,
                num_micro_batches=parts,
                weights=weights,
            )
        )
        for arrangement in ARRANGEMENTS
    )
    assert bucketed.keys() == packed.keys()
    for document, learnt in bucketed.items():
        np.testing.assert_array_equal(learnt, packed[document])
        assert set(learnt[3]) == {weights[document]}


@quick
@given(documents=chosen_documents)
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_padding_never_counts(store, arrangement, documents):
    (batch,) = arrange(store, documents, arrangement=arrangement, width=LONGEST)
    padding = batch.segment_ids == 0
    for part in (batch.inputs, batch.targets, batch.loss_mask, batch.weights):
        assert not part[padding].any()
    assert (batch.inputs[~padding] > 0).all()
    assert batch.num_targets == batch.loss_mask.sum() == store.num_targets[documents].sum()
    assert batch.occupancy == pytest.approx(1 - padding.mean())
    ends = np.diff(np.pad(padding, ((0, 0), (0, 1)), constant_values=True).astype(int), axis=1)
    assert ((ends == 1).sum(axis=1) <= 1).all(), "padding stands at the end of a row"
    assert batch.is_packed == (arrangement == "packed" and len(documents) > len(batch.inputs))


def test_a_bucketed_batch_by_hand(tmp_path):
    with TokenStoreWriter(tmp_path, 64) as writer:
        writer.add(np.arange(10, 30), np.arange(20) >= 18, None, None)
        writer.add(np.array([5, 6, 7]), np.array([False, False, True]), None, None)
    (batch,) = arrange(TokenStore(tmp_path), np.array([0, 1]), arrangement="bucketed", width=20)
    assert batch.documents.tolist() == [1, 0], "by length"
    assert batch.inputs.shape == (2, 32)
    assert batch.inputs[0].tolist() == [5, 6] + [0] * 30
    assert batch.targets[0].tolist() == [6, 7] + [0] * 30
    assert batch.loss_mask[0].tolist() == [0, 1] + [0] * 30
    assert batch.segment_ids.tolist() == [[1] * 2 + [0] * 30, [2] * 19 + [0] * 13]
    assert batch.loss_mask[1].tolist() == [0] * 17 + [1, 1] + [0] * 13


def test_a_packed_batch_by_hand(tmp_path):
    with TokenStoreWriter(tmp_path, 64) as writer:
        for length in (61, 101, 29, 71):  # take 60, 100, 28 and 70 of 128 places
            writer.add(np.full(length, length % 64), np.arange(length) > 0, None, None)
    (batch,) = arrange(TokenStore(tmp_path), np.arange(4), arrangement="packed", width=101)
    assert batch.documents.tolist() == [1, 2, 3, 0], "longest first, into the first row with room"
    assert batch.segment_ids.tolist() == [
        [1] * 100 + [2] * 28,
        [3] * 70 + [0] * 58,
        [4] * 60 + [0] * 68,
    ]
    assert batch.is_packed


@settings(deadline=None, max_examples=15)
@given(width=st.integers(LONGEST, 100_000))
def test_few_widths_occur(store, width):
    every = np.arange(len(store))
    batches = arrange(
        store, every, arrangement="bucketed", width=width, num_micro_batches=len(every)
    )
    widths = {batch.inputs.shape[1] for batch in batches}
    assert all(size % 16 == 0 for size in widths)
    assert max(widths) - LONGEST < max(16, -(-width // 64) + 16)
    packed = arrange(store, every, arrangement="packed", width=width, num_micro_batches=9)
    assert {batch.inputs.shape[1] for batch in packed} == {-(-width // 128) * 128}


@pytest.mark.parametrize("width", [64, 1000, 2048, 32_768])
def test_at_most_64_widths_occur(width, tmp_path):
    with TokenStoreWriter(tmp_path, 8) as writer:
        for length in np.unique(np.linspace(2, width, 200).astype(int)):
            writer.add(np.ones(length, np.int32), np.arange(length) > 0, None, None)
    store = TokenStore(tmp_path)
    batches = [
        arrange(store, np.array([document]), arrangement="bucketed", width=width)[0]
        for document in range(len(store))
    ]
    assert len({batch.inputs.shape[1] for batch in batches}) <= 64


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_rows_that_are_too_narrow(tmp_path, arrangement):
    with TokenStoreWriter(tmp_path, 8) as writer:
        writer.add(np.ones(200, np.int32), np.arange(200) > 0, None, None)
    with pytest.raises(AssertionError, match="a document is longer than a row"):
        arrange(TokenStore(tmp_path), np.array([0]), arrangement=arrangement, width=100)


# --- for evaluation ---


@quick
@given(documents=chosen_documents, batch_tokens=st.integers(1, 3000))
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_evaluation_batches_are_bounded_and_complete(store, arrangement, documents, batch_tokens):
    batches = list(
        evaluation_batches(
            store, documents, arrangement=arrangement, width=LONGEST, batch_tokens=batch_tokens
        )
    )
    assert sorted(pairs(batches)) == sorted(documents.tolist())
    for batch in batches:
        assert batch.inputs.size <= batch_tokens or len(batch.inputs) == 1
    again = evaluation_batches(
        store, documents, arrangement=arrangement, width=LONGEST, batch_tokens=batch_tokens
    )
    for first, second in zip(batches, again, strict=True):
        np.testing.assert_array_equal(first.inputs, second.inputs)


def test_evaluation_goes_through_a_large_set_in_pools(store, monkeypatch):
    monkeypatch.setattr("pipeline.data.batches.EVALUATION_POOL_DOCUMENTS", 7)
    for arrangement in ARRANGEMENTS:
        batches = evaluation_batches(
            store,
            np.arange(len(store)),
            arrangement=arrangement,
            width=LONGEST,
            batch_tokens=10_000,
        )
        assert sorted(pairs(batches)) == list(range(len(store)))
    nothing = evaluation_batches(
        store, np.arange(0), arrangement="packed", width=LONGEST, batch_tokens=1
    )
    assert list(nothing) == []
