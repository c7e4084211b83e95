"""What goes into a store comes out, and a damaged store is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.data.store import (
    DOCUMENTS,
    HEADER,
    REMEDY,
    TARGETS,
    TOKENS,
    WEIGHTS,
    TokenStore,
    TokenStoreWriter,
    held_out_store,
)
from pipeline.errors import DataError

FILES = (TOKENS, TARGETS, DOCUMENTS, HEADER)
shares = st.floats(0.0625, 1, width=32)
numbers = st.none() | st.floats(0, 64, width=32)


@st.composite
def stores(draw):
    """Draw a vocabulary and documents with at least one target each."""
    vocab_size = draw(st.sampled_from([2, 512, 1 << 16, (1 << 16) + 1, 262_144]))
    documents = []
    for _ in range(draw(st.integers(0, 5))):
        ids = draw(
            npst.arrays(np.int32, st.integers(2, 20), elements=st.integers(0, vocab_size - 1))
        )
        mask = draw(npst.arrays(np.bool_, len(ids)))
        mask[0], mask[-1] = False, True
        weights = None
        if draw(st.booleans()):
            values = draw(npst.arrays(np.float32, len(ids), elements=shares))
            weights = np.where(mask, values, np.float32(1))
        documents.append((ids, mask, draw(numbers), draw(numbers), weights))
    return vocab_size, documents


def write(folder, vocab_size, documents):
    with TokenStoreWriter(folder, vocab_size) as writer:
        for document in documents:
            writer.add(*document)
    return TokenStore(folder)


@settings(deadline=None, max_examples=15)
@given(stores())
def test_what_goes_in_comes_out(tmp_path_factory, drawn):
    vocab_size, documents = drawn
    store = write(tmp_path_factory.getbasetemp() / "store", vocab_size, documents)
    assert (len(store), store.vocab_size) == (len(documents), vocab_size)
    assert store.total_tokens == sum(len(ids) for ids, *_ in documents)
    assert store.total_targets == sum(mask.sum() for _, mask, *_ in documents)
    weighted = any(weights is not None for *_, weights in documents)
    assert (store.folder / WEIGHTS).exists() == weighted
    for index, (ids, mask, authority, entropy, weights) in enumerate(documents):
        expected = np.ones(len(ids), np.float32) if weights is None else weights
        np.testing.assert_array_equal(store.weights(index), expected)
        np.testing.assert_array_equal(store.tokens(index), ids)
        np.testing.assert_array_equal(store.target_mask(index), mask)
        assert (store.lengths[index], store.num_targets[index]) == (len(ids), mask.sum())
        expected = [np.nan if value is None else value for value in (authority, entropy)]
        found = [store.authority_weight[index], store.provenance_entropy[index]]
        np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=15)
@given(stores())
def test_the_same_documents_give_the_same_bytes(tmp_path_factory, drawn):
    folders = [tmp_path_factory.getbasetemp() / name for name in ("one", "two")]
    for folder in folders:
        write(folder, *drawn)
    names = [sorted(file.name for file in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


@settings(deadline=None, max_examples=15)
@given(stores(), st.integers(1, 30))
def test_how_many_are_written_together_changes_no_byte(tmp_path_factory, drawn, batch_tokens):
    folders = [tmp_path_factory.getbasetemp() / name for name in ("one", "two")]
    write(folders[0], *drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.data.store.BATCH_TOKENS", batch_tokens)
        write(folders[1], *drawn)
    for name in {file.name for folder in folders for file in folder.iterdir()}:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


@pytest.mark.parametrize(("vocab_size", "bytes_per_token"), [(1 << 16, 2), ((1 << 16) + 1, 4)])
def test_the_vocabulary_decides_the_width(tmp_path, vocab_size, bytes_per_token):
    ids = np.array([0, vocab_size - 1], np.int32)
    store = write(tmp_path, vocab_size, [(ids, np.array([False, True]), None, None)])
    assert (tmp_path / TOKENS).stat().st_size == 2 * bytes_per_token
    assert store.tokens(0).tolist() == [0, vocab_size - 1]


@pytest.mark.parametrize(
    ("ids", "mask", "reason"),
    [
        ([1, 2], [False, False], "without targets"),
        ([1, 2], [True, True], "nothing predicts the first"),
        ([1, 8], [False, True], "outside the vocabulary"),
        ([-1, 2], [False, True], "outside the vocabulary"),
    ],
)
def test_what_a_store_never_holds(tmp_path, ids, mask, reason):
    with (
        pytest.raises(AssertionError, match=reason),
        TokenStoreWriter(tmp_path, vocab_size=8) as writer,
    ):
        writer.add(np.array(ids, np.int32), np.array(mask), None, None)


def test_a_store_without_weights_is_as_it_always_was(tmp_path):
    ids, mask = np.arange(5, dtype=np.int32), np.arange(5) > 1
    write(tmp_path, 8, [(ids, mask, None, None, np.full(5, 0.5, np.float32))])
    assert (tmp_path / WEIGHTS).exists()
    write(tmp_path, 8, [(ids, mask, None, None)])
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(FILES)
    assert json.loads((tmp_path / HEADER).read_text())["format"] == "tidewheel token store 1"


def test_many_tokens_before_the_first_weight(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.data.store.WRITE_BUFFER_BYTES", 3)
    ids, mask = np.arange(5, dtype=np.int32), np.arange(5) > 1
    half = np.where(mask, np.float32(0.5), np.float32(1))
    documents = [(ids, mask, None, None)] * 3 + [
        (ids, mask, None, None, half),
        (ids, mask, 0.0, 0.0),
    ]
    store = write(tmp_path, 8, documents)
    found = [store.weights(index).tolist() for index in range(5)]
    assert found == [[1.0] * 5] * 3 + [[1.0, 1.0, 0.5, 0.5, 0.5], [1.0] * 5]


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, np.nan])
def test_weights_that_no_target_has(tmp_path, value):
    ids, mask = np.arange(5, dtype=np.int32), np.arange(5) > 1
    with (
        pytest.raises(AssertionError, match="a weight that no target has"),
        TokenStoreWriter(tmp_path, vocab_size=8) as writer,
    ):
        writer.add(ids, mask, None, None, np.full(5, value, np.float32))


def test_weights_that_were_cut_or_lost(tmp_path):
    ids, mask = np.arange(5, dtype=np.int32), np.arange(5) > 1
    write(tmp_path, 8, [(ids, mask, None, None, np.full(5, 0.5, np.float32))])
    (tmp_path / WEIGHTS).write_bytes(b"1234")
    with pytest.raises(DataError, match=r"weights\.bin has 4 bytes; store\.json asks for 20"):
        TokenStore(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(DataError, match=r"weights\.bin is missing"):
        TokenStore(tmp_path)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, 8, [(np.arange(5, dtype=np.int32), np.arange(5) > 1, 0.5, None)] * 3)
    return tmp_path


def test_a_store_that_was_never_finished(tmp_path):
    write(tmp_path, 8, [])
    with pytest.raises(KeyboardInterrupt), TokenStoreWriter(tmp_path, 8):
        raise KeyboardInterrupt
    with pytest.raises(DataError, match=r"holds no finished token store.*\nRun the prepare stage"):
        TokenStore(tmp_path)


@pytest.mark.parametrize("name", [TOKENS, TARGETS, DOCUMENTS])
def test_files_that_were_cut_grown_or_lost(folder, name):
    whole = (folder / name).read_bytes()
    for damaged in (whole[:-1], whole + b"\0", b""):
        (folder / name).write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{name} has {len(damaged)} bytes; .* asks for"):
            TokenStore(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name} is missing; .*\nRun the prepare stage again"):
        TokenStore(folder)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{", r"store\.json: is no JSON .*\nRun the prepare stage again"),
        ("[]", r"store\.json: holds \[\]; must hold an object"),
        ("{}", r"store\.json: these values cannot be used:\n  format: is missing\nRun the prepare"),
        ({"format": "tidewheel token store 9"}, "format 'tidewheel token store 9'; this version"),
        ({"num_documents": -3}, r"\n  num_documents: is -3; must be a whole number from 0"),
        ({"num_tokens": "15"}, r'\n  num_tokens: is "15"; must be a whole number'),
        ({"vocab_size": None}, r"\n  vocab_size: is null; must be a whole number from 1"),
        ({"vocab_size": 1 << 17}, r"tokens\.bin has 30 bytes; store\.json asks for 60"),
        ({"num_documents": 2}, r"documents\.bin has"),
    ],
)
def test_headers_that_are_wrong(folder, header, message):
    if isinstance(header, dict):
        whole = json.loads((folder / HEADER).read_text())
        header = json.dumps({**whole, **header})
    (folder / HEADER).write_text(header)
    with pytest.raises(DataError, match=message):
        TokenStore(folder)


def test_files_that_contradict_each_other(folder):
    table = np.fromfile(folder / DOCUMENTS, np.int64)
    table[1] += 1  # the length of the first document
    table.tofile(folder / DOCUMENTS)
    with pytest.raises(DataError) as caught:
        TokenStore(folder)
    assert str(caught.value).splitlines() == [
        f"{folder}: its files contradict each other:",
        "  document 1 starts at token 5; must at 6",
        REMEDY,
    ]


def test_the_last_judgement_takes_validation_where_there_is_no_test(folder):
    document = (np.arange(5, dtype=np.int32), np.arange(5) > 1, None, None)
    write(folder / "test", 8, [])
    write(folder / "validation", 8, [document])
    assert held_out_store(folder).folder == folder / "validation"
    write(folder / "test", 8, [document])
    assert held_out_store(folder).folder == folder / "test"


@pytest.mark.parametrize("read_tokens", [2, 1 << 22])
def test_the_tokens_to_be_predicted_are_listed_once_each(tmp_path, monkeypatch, read_tokens):
    monkeypatch.setattr("pipeline.data.store.READ_TOKENS", read_tokens)
    with TokenStoreWriter(tmp_path, 64) as writer:
        writer.add(np.array([1, 9, 3, 9]), np.array([False, True, False, True]), None, None)
        writer.add(np.array([5, 2, 63]), np.array([False, True, True]), None, None)
    assert TokenStore(tmp_path).target_ids().tolist() == [2, 9, 63]
