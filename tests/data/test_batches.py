"""Documents are the same in either arrangement, and padding never counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.batches import RowLayout, arrange, evaluation_batches
from pipeline.data.store import TokenStore, TokenStoreWriter

ARRANGEMENTS = ("bucketed", "packed")
LONGEST = 90
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


def flat(micro_batches):
    """List the batches of micro-batches that hold one each."""
    return [batch for (batch,) in micro_batches]


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


@quick
@given(documents=chosen_documents, parts=st.integers(1, 50))
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_micro_batches_hold_each_document_whole_and_once(store, arrangement, documents, parts):
    batches = arrange(store, documents, RowLayout(arrangement, LONGEST), num_micro_batches=parts)
    assert 1 <= len(batches) <= min(parts, len(documents))
    if arrangement == "bucketed":
        assert len(batches) == min(parts, len(documents))
    found = pairs(flat(batches))
    assert sorted(found) == sorted(documents.tolist())
    for document, (inputs, targets, mask, weights) in found.items():
        tokens = store.tokens(document)
        np.testing.assert_array_equal(inputs, tokens[:-1])
        np.testing.assert_array_equal(targets, tokens[1:])
        np.testing.assert_array_equal(mask, store.target_mask(document)[1:])
        np.testing.assert_array_equal(weights, np.ones(len(tokens) - 1))


@quick
@given(documents=chosen_documents, micro=st.integers(1, 6), streams=st.integers(1, 4))
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_streams_share_the_rows_of_a_micro_batch(store, arrangement, documents, micro, streams):
    whole, shared = (
        arrange(
            store,
            documents,
            RowLayout(arrangement, LONGEST),
            num_micro_batches=micro,
            num_streams=count,
        )
        for count in (1, streams)
    )
    for (batch,), beside in zip(whole, shared, strict=True):
        assert len(beside) == (streams if len(batch.inputs) >= streams else 1)
        sizes = [len(each.inputs) for each in beside]
        assert sum(sizes) == len(batch.inputs)
        assert max(sizes) - min(sizes) <= 1
        together = [document for each in beside for document in each.documents]
        assert together == batch.documents.tolist()


@quick
@given(documents=chosen_documents, parts=st.integers(1, 5))
def test_both_arrangements_teach_the_same(store, documents, parts):
    weights = np.linspace(0.1, 1.9, len(store), dtype=np.float32)
    bucketed, packed = (
        pairs(
            flat(
                arrange(
                    store,
                    documents,
                    RowLayout(arrangement, LONGEST),
                    num_micro_batches=parts,
                    weights=weights,
                )
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
    ((batch,),) = arrange(store, documents, RowLayout(arrangement, LONGEST))
    padding = batch.segment_ids == 0
    for part in (batch.inputs, batch.targets, batch.loss_mask, batch.weights):
        assert not part[padding].any()
    assert (batch.inputs[~padding] > 0).all()
    assert batch.num_targets == batch.loss_mask.sum() == store.num_targets[documents].sum()
    assert batch.num_tokens == (store.lengths[documents] - 1).sum()
    assert batch.occupancy == pytest.approx(1 - padding.mean())
    ends = np.diff(np.pad(padding, ((0, 0), (0, 1)), constant_values=True).astype(int), axis=1)
    assert ((ends == 1).sum(axis=1) <= 1).all(), "padding stands at the end of a row"
    assert batch.is_packed == (arrangement == "packed" and len(documents) > len(batch.inputs))


def test_a_bucketed_batch_by_hand(tmp_path):
    with TokenStoreWriter(tmp_path, 64) as writer:
        writer.add(np.arange(10, 30), np.arange(20) >= 18, None, None)
        writer.add(np.array([5, 6, 7]), np.array([False, False, True]), None, None)
    ((batch,),) = arrange(TokenStore(tmp_path), np.array([0, 1]), RowLayout("bucketed", 20))
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
    ((batch,),) = arrange(TokenStore(tmp_path), np.arange(4), RowLayout("packed", 101))
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
    batches = arrange(store, every, RowLayout("bucketed", width), num_micro_batches=len(every))
    widths = {batch.inputs.shape[1] for (batch,) in batches}
    assert all(size % 16 == 0 for size in widths)
    assert max(widths) - LONGEST < max(16, -(-width // 64) + 16)
    packed = arrange(store, every, RowLayout("packed", width), num_micro_batches=9)
    assert {batch.inputs.shape[1] for (batch,) in packed} == {-(-width // 128) * 128}


@pytest.mark.parametrize("width", [64, 1000, 2048, 32_768])
def test_at_most_64_widths_occur(width, tmp_path):
    with TokenStoreWriter(tmp_path, 8) as writer:
        for length in np.unique(np.linspace(2, width, 200).astype(int)):
            writer.add(np.ones(length, np.int32), np.arange(length) > 0, None, None)
    store = TokenStore(tmp_path)
    batches = [
        arrange(store, np.array([document]), RowLayout("bucketed", width))[0][0]
        for document in range(len(store))
    ]
    assert len({batch.inputs.shape[1] for batch in batches}) <= 64


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_rows_that_are_too_narrow(tmp_path, arrangement):
    with TokenStoreWriter(tmp_path, 8) as writer:
        writer.add(np.ones(200, np.int32), np.arange(200) > 0, None, None)
    with pytest.raises(AssertionError, match="a document is longer than a row"):
        arrange(TokenStore(tmp_path), np.array([0]), RowLayout(arrangement, 100))


# --- for evaluation ---


@quick
@given(documents=chosen_documents, batch_tokens=st.integers(1, 3000))
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_evaluation_batches_are_bounded_and_complete(store, arrangement, documents, batch_tokens):
    batches = list(
        evaluation_batches(
            store, documents, RowLayout(arrangement, LONGEST), batch_tokens=batch_tokens
        )
    )
    assert sorted(pairs(batches)) == sorted(documents.tolist())
    for batch in batches:
        assert batch.inputs.size <= batch_tokens or len(batch.inputs) == 1
    again = evaluation_batches(
        store, documents, RowLayout(arrangement, LONGEST), batch_tokens=batch_tokens
    )
    for first, second in zip(batches, again, strict=True):
        np.testing.assert_array_equal(first.inputs, second.inputs)


def test_evaluation_goes_through_a_large_set_in_pools(store, monkeypatch):
    monkeypatch.setattr("pipeline.data.batches.EVALUATION_POOL_DOCUMENTS", 7)
    for arrangement in ARRANGEMENTS:
        batches = evaluation_batches(
            store, np.arange(len(store)), RowLayout(arrangement, LONGEST), batch_tokens=10_000
        )
        assert sorted(pairs(batches)) == list(range(len(store)))
    nothing = evaluation_batches(store, np.arange(0), RowLayout("packed", LONGEST), batch_tokens=1)
    assert list(nothing) == []
