"""The programs that are compared."""

import pytest

from pipeline.benchmark.peers.child import NotMeasured
from pipeline.benchmark.peers.job import Job
from pipeline.benchmark.peers.programs import PROGRAMS, Program, run
from pipeline.files import read_json


@pytest.fixture
def job(tmp_path):
    return Job("model", "rows", "prepared", str(tmp_path / "out"), 2, 4, 1e-3, 8, seed=3)


def test_a_program_that_fails_gives_the_end_of_its_output(job, monkeypatch):
    monkeypatch.setitem(PROGRAMS, "broken", Program("pipeline.no_such_module"))
    with pytest.raises(NotMeasured, match=r"broken ended with exit status 1: .*no_such_module"):
        run("broken", job)


def test_a_program_that_writes_no_outcome_has_measured_nothing(job, monkeypatch):
    monkeypatch.setitem(PROGRAMS, "silent", Program("pipeline.errors"))
    with pytest.raises(NotMeasured, match="silent ended with exit status 0"):
        run("silent", job)


def test_a_program_reads_its_own_type(job, monkeypatch, tmp_path):
    monkeypatch.setitem(PROGRAMS, "half", Program("pipeline.errors", dtype="bfloat16"))
    with pytest.raises(NotMeasured):
        run("half", job)
    assert read_json(tmp_path / "out/job.json")["dtype"] == "bfloat16"
