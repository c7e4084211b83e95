"""Stores of activations: only what is whole counts, and all of them stay within the budget."""

import errno
import json
import multiprocessing
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.train.prefix import store as activations
from pipeline.train.prefix.store import DIGESTS, HEADER, VALUES, ActivationCache

POSITIONS, WIDTH = np.array([3, 1, 5, 2000]), 8
BUDGET = 10**9


def content(document, seed=0):
    generator = np.random.default_rng([seed, document])
    return generator.integers(1, 2**32, (POSITIONS[document], WIDTH), np.uint32)


@pytest.fixture
def open_store(tmp_path):
    """Open a store of some facts; what was open is closed at the end."""
    opened = []

    def make(name="a", budget=BUDGET, positions=POSITIONS):
        cache = ActivationCache(tmp_path / "cache", budget)
        opened.append(cache.open({"name": name}, positions, WIDTH, 4))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def fill(store, seed=0):
    for document in range(len(POSITIONS)):
        store.write(document, content(document, seed))
    return store


def stored(store):
    return [document for document in range(len(POSITIONS)) if store.read(document) is not None]


def on_disk(folder):
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*.bin"))


@pytest.mark.parametrize("itemsize", [2, 4])
def test_what_was_written_is_read_by_whoever_opens_it(tmp_path, itemsize):
    dtype = np.dtype(f"<u{itemsize}")
    values = [content(document).astype(dtype) for document in range(4)]
    for turn in range(2):
        store = ActivationCache(tmp_path, BUDGET).open({}, POSITIONS, WIDTH, itemsize)
        for document in (2, 0, 3):
            if turn == 0:
                assert store.read(document) is None
                store.write(document, values[document])
            np.testing.assert_array_equal(store.read(document), values[document])
        assert store.read(1) is None
        assert store.num_bytes == (3 + 5 + 2000) * WIDTH * itemsize
        assert store.missing_bytes == WIDTH * itemsize
        store.close()


def test_other_facts_are_another_store(open_store):
    one = fill(open_store("a"))
    other = open_store("b")
    assert stored(other) == []
    assert one.folder != other.folder
    assert stored(open_store("a")) == [0, 1, 2, 3]
    assert json.loads((one.folder / HEADER).read_text())["name"] == "a"


def test_two_that_fill_one_store_see_what_the_other_has_written(open_store):
    one, other = open_store(), open_store()
    one.write(0, content(0))
    np.testing.assert_array_equal(other.read(0), content(0))
    other.write(0, content(0))
    assert stored(one) == [0]


@pytest.mark.parametrize("place", [0, 40, 3 * WIDTH * 4 - 1])
def test_one_bit_that_has_turned_is_enough(open_store, caplog, place):
    store = fill(open_store())
    with (store.folder / VALUES).open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    again = open_store()
    assert stored(again) == [1, 2, 3]
    assert again.num_damaged == 1
    assert "document 0 is not what was written; such documents are computed again" in caplog.text
    again.write(0, content(0))
    assert stored(again) == [0, 1, 2, 3]


def test_the_activations_of_another_document_do_not_count(open_store):
    positions = np.array([3, 3])
    store = open_store(positions=positions)
    for document in (0, 1):
        store.write(document, content(0, seed=document))
    with (store.folder / VALUES).open("r+b") as file:
        file.write(file.read(3 * WIDTH * 4))
    with (store.folder / DIGESTS).open("r+b") as file:
        file.write(file.read(32))
    again = open_store(positions=positions)
    assert again.read(0) is not None
    assert again.read(1) is None


@pytest.mark.parametrize("name", [VALUES, DIGESTS])
def test_what_did_not_reach_the_disk_does_not_count(open_store, name):
    store = fill(open_store())
    size = (store.folder / name).stat().st_size
    os.truncate(store.folder / name, 0)  # as after a power failure: the right size, and zeros
    os.truncate(store.folder / name, size)
    assert stored(open_store()) == []


@pytest.mark.parametrize("harm", ["values cut", "digests gone", "header damaged", "other header"])
def test_a_damaged_store_is_made_anew(open_store, caplog, harm):
    store = fill(open_store())
    if harm == "values cut":
        os.truncate(store.folder / VALUES, 100)
    if harm == "digests gone":
        (store.folder / DIGESTS).unlink()
    if harm == "header damaged":
        (store.folder / HEADER).write_text("{")
    if harm == "other header":
        (store.folder / HEADER).write_text('{"format": "something else"}')
    assert stored(open_store()) == []
    assert "is damaged, and made anew" in caplog.text
    assert stored(fill(open_store())) == [0, 1, 2, 3]


def test_one_that_was_never_finished_is_made_anew_without_a_word(open_store, caplog):
    store = open_store()
    (store.folder / HEADER).unlink()
    assert stored(open_store()) == []
    assert caplog.text == ""


def test_the_budget_is_never_passed(open_store, tmp_path):
    for budget in (10**4, 5 * 10**4, 10**5):
        store = fill(open_store(budget=budget))
        assert on_disk(tmp_path / "cache") <= budget
        store.close()
        shutil.rmtree(tmp_path / "cache")
    assert stored(store) == [0, 1, 2, 3]


def test_what_does_not_fit_is_left_out(open_store):
    assert stored(fill(open_store(budget=3 * 10**4))) == [0, 1, 2]
    assert stored(fill(open_store("b", budget=0))) == []


def test_a_budget_that_is_too_small_is_said_once_with_what_would_do(open_store, caplog):
    store = fill(fill(open_store(budget=3 * 10**4)))
    share = store.num_bytes / (store.num_bytes + store.missing_bytes)
    (message,) = [record.message for record in caplog.records]
    assert f"there is room for {share:.0%} of the activations" in message
    wanted = float(re.search(r"train.prefix_cache_gb=(\S+) holds all", message)[1])
    caplog.clear()
    assert stored(fill(open_store("b", budget=int(wanted * 1e9) + 3 * 10**4))) == [0, 1, 2, 3]
    assert not caplog.records


def test_the_least_recently_used_store_makes_room(open_store, tmp_path):
    folders = []
    for number, name in enumerate("abc"):
        store = fill(open_store(name))
        store.close()
        folders.append(store.folder)
        os.utime(store.folder / HEADER, (number, number))
    again = open_store("a")
    again.close()
    fill(open_store("d", budget=3 * 70_000))
    assert [folder.exists() for folder in folders] == [True, False, True]
    assert on_disk(tmp_path / "cache") <= 3 * 70_000
    assert not list((tmp_path / "cache").glob(".old-*"))


def test_a_store_in_use_is_not_evicted(open_store):
    used = fill(open_store("a"))
    other = fill(open_store("b", budget=100_000))
    assert used.folder.exists()
    assert stored(used) == [0, 1, 2, 3]
    assert 3 not in stored(other)
    used.close()
    fill(open_store("c", budget=100_000))
    assert not used.folder.exists()


def test_what_is_left_of_an_eviction_is_swept(open_store, tmp_path):
    open_store()
    (tmp_path / "cache/.old-x").mkdir()
    open_store("b")
    assert not (tmp_path / "cache/.old-x").exists()


def test_a_disk_that_is_full_is_said_once_and_nothing_half_written_counts(
    open_store, monkeypatch, caplog
):
    store = open_store()
    store.write(0, content(0))
    real = os.pwrite

    def full(descriptor, data, place):
        if len(data) > 40:
            real(descriptor, data[: len(data) // 2], place)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, place)

    monkeypatch.setattr(activations.os, "pwrite", full)
    fill(store)
    monkeypatch.undo()
    assert caplog.text.count("no more activations can be stored") == 1
    assert "No space left on device" in caplog.text
    assert stored(store) == [0]
    assert stored(fill(open_store())) == [0, 1, 2, 3]


def test_a_disk_that_is_nearly_full_keeps_room_for_others(open_store, monkeypatch):
    free = {"bytes": 100_000}
    monkeypatch.setattr(
        activations.shutil, "disk_usage", lambda path: SimpleNamespace(free=free["bytes"])
    )
    assert stored(fill(open_store())) == [0, 1, 2]
    free["bytes"] = 10**6
    assert stored(fill(open_store())) == [0, 1, 2, 3]


def write_for_ever(folder):
    store = ActivationCache(folder, BUDGET).open({"name": "a"}, POSITIONS, WIDTH, 4)
    while True:
        fill(store)


def test_killing_who_writes_leaves_only_what_is_whole(open_store, tmp_path):
    reference = fill(open_store("reference"))
    for seconds in (0.3, 0.31, 0.32):
        writer = multiprocessing.get_context("fork").Process(
            target=write_for_ever, args=(tmp_path / "cache",)
        )
        writer.start()
        writer.join(seconds)
        writer.kill()
        writer.join()
        store = open_store()
        for document in stored(store):
            np.testing.assert_array_equal(store.read(document), reference.read(document))
