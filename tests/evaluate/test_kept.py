"""Results that outlive the process that measured them."""

import math

import pytest

from pipeline.errors import CheckpointError
from pipeline.evaluate.kept import KeptResults

CODE = {"code": "1"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.jsonl"


def test_numbers_come_back_to_the_same_bits(path):
    values = [0.1 + 0.2, 1e-300, -0.0, 5e-324, math.inf, 2**53 + 1, "ä"]
    KeptResults(path, CODE).add("one", values)
    found = KeptResults(path, CODE).found["one"]
    assert list(map(repr, found)) == list(map(repr, values))


def test_results_of_other_code_are_dropped(path):
    KeptResults(path, CODE).add("one", 1)
    assert "one" not in KeptResults(path, {"code": "2"}).found
    assert "one" not in KeptResults(path, CODE).found


@pytest.mark.parametrize("lost", range(1, 40))
def test_a_kill_or_a_loss_of_power_costs_the_last_results_only(path, lost):
    kept = KeptResults(path, CODE)
    kept.add("one", [1.5])
    sizes = [path.stat().st_size]
    kept.add("two", [2.5])
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    again = KeptResults(path, CODE)
    assert ("one" in again.found) == (len(whole) - lost >= sizes[0])
    assert "two" not in again.found
    again.add("two", [2.5])
    assert KeptResults(path, CODE).found["two"] == [2.5]


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"\0" * 30, b"[1]\n", b"3\n", b'[["a"], 2]\n'])
def test_what_stands_after_a_damage_is_not_believed(path, damage):
    KeptResults(path, CODE).add("one", 1)
    path.write_bytes(path.read_bytes() + damage + b'["two", 2]\n')
    assert KeptResults(path, CODE).found.keys() == {"identity", "one"}


def test_a_file_that_cannot_be_written_is_named(path):
    path.mkdir()
    message = r"results\.jsonl: results cannot be kept \(.*\)\.\nSee that .* has room"
    with pytest.raises(CheckpointError, match=message):
        KeptResults(path, CODE)


def test_a_full_disk_ends_with_the_remedy(path, monkeypatch):
    kept = KeptResults(path, CODE)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.evaluate.kept.os.fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        kept.add("one", 1)
