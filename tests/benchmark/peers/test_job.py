"""The job that a program gets, and the outcome that it writes."""

import dataclasses
import json
import sys

from pipeline.benchmark.peers.job import Job, Outcome, answer
from pipeline.files import read_json


def test_a_program_gets_the_job_as_it_was_written_and_its_outcome_is_kept(tmp_path, monkeypatch):
    job = Job("model", "rows", "prepared", "out", 2, 4, 1e-3, 8, seed=3, num_layers=1)
    task, written = tmp_path / "job.json", tmp_path / "outcome.json"
    task.write_text(json.dumps(dataclasses.asdict(job)))
    outcome, jobs = Outcome([9.0, 1.0, 3.0], [100, 10, 30]), []

    def train(job):
        jobs.append(job)
        return outcome

    monkeypatch.setattr(sys, "argv", ["program", str(task), str(written)])
    answer(train)
    assert jobs == [job]
    assert Outcome(**read_json(written)) == outcome


def test_the_first_step_is_not_counted_in_a_rate():
    assert Outcome([9.0, 1.0, 3.0], [100, 10, 30]).rate() == 10
