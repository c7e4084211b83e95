"""The job that a program gets, and the outcome that it writes."""

import dataclasses
import json

from pipeline.benchmark.peers.job import Job, Outcome, answer
from pipeline.files import read_json


def test_a_job_comes_back_as_it_was_written(tmp_path):
    job = Job("model", "rows", "prepared", "out", 2, 4, 1e-3, 8, seed=3, num_layers=1)
    (tmp_path / "job.json").write_text(json.dumps(dataclasses.asdict(job)))
    assert Job.read(tmp_path / "job.json") == job


def test_the_first_step_is_not_counted_in_a_rate(tmp_path):
    outcome = Outcome([9.0, 1.0, 3.0], [100, 10, 30])
    assert outcome.rate() == 10
    answer(tmp_path / "outcome.json", outcome)
    assert Outcome(**read_json(tmp_path / "outcome.json")) == outcome
