"""Programs run in rounds, in alternating order."""

import dataclasses

import pytest

from pipeline.benchmark.peers import compare, rounds
from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.job import Outcome
from stages.benchmark import peers_of
from stages.params import composed
from tests.support.small_peers import lay_out_rows, small


@pytest.fixture
def comparison(tmp_path):
    (tmp_path / "rows").mkdir()
    settings = peers_of(composed(small(lay_out_rows(tmp_path / "rows"))).benchmark.peers)
    return compare.set_up(settings, 6, 1, 3, tmp_path / "work", lambda text: None)


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
    finished = {}
    comparison.run_rounds("part", {"a": job, "bad": job}, 2, lambda n, done: finished.update(done))
    comparison.run_rounds("other", {"a": job, "b": job}, 2, lambda n, done: None)
    assert ran == [("a", 4), ("bad", 4), ("a", 5), ("a", 4), ("b", 4), ("b", 5), ("a", 5)]
    assert list(finished) == ["a"]
    assert comparison.results.reasons["part", "bad"] == "it broke"
