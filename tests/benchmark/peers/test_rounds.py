"""Programs run in rounds, in alternating order."""

import dataclasses
from pathlib import Path

import pytest

from pipeline.benchmark.peers import rounds
from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.job import Outcome
from tests.support.small_peers import lay_out_rows, set_up


@pytest.fixture
def comparison(tmp_path):
    (tmp_path / "rows").mkdir()
    return set_up(lay_out_rows(tmp_path / "rows"), tmp_path / "work")


@pytest.fixture
def ran(monkeypatch):
    """Record which program runs with which seed; `bad` fails."""
    found = []

    def run(name, job):
        found.append((name, job.seed))
        if name == "bad":
            raise NotMeasured("it broke")
        return Outcome([1.0, 1.0], [10, 10])

    monkeypatch.setattr(rounds, "run", run)
    return found


def test_every_second_round_is_reversed_and_a_failed_program_is_left_out(comparison, ran):
    job = dataclasses.replace(comparison.job(comparison.material, 2), seed=0)
    comparison.part = "part"
    found = [list(outcomes) for _, outcomes in comparison.run_rounds({"a": job, "bad": job}, 2)]
    comparison.part = "other"
    list(comparison.run_rounds({"a": job, "b": job}, 2))
    assert ran == [("a", 4), ("bad", 4), ("a", 5), ("a", 4), ("b", 4), ("b", 5), ("a", 5)]
    assert found == [["a"], ["a"]]
    assert comparison.results.reasons["part", "bad"] == "it broke"


def test_files_of_a_round_exist_until_the_next_one(comparison, monkeypatch):
    def run(name, job):
        Path(job.output).mkdir(parents=True)
        return Outcome([1.0], [10])

    monkeypatch.setattr(rounds, "run", run)
    comparison.part = "part"
    job = comparison.job(comparison.material, 1)
    for number, _ in comparison.run_rounds({"a": job}, 2):
        assert comparison.output(number, "a").is_dir()
        assert not comparison.output(number - 1, "a").exists()
