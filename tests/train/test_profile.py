"""Where the seconds of the steps go."""

import csv

from pipeline.train.profile import PARTS, Profile


def test_seconds_are_written_for_each_step_and_start_again(tmp_path):
    profile = Profile(tmp_path / "profile.csv")
    profile.resume_after(0)
    with profile.part("update"):
        sum(range(100_000))
    profile.end_step(1)
    profile.end_step(2)
    profile.sync()
    first, second = csv.DictReader((tmp_path / "profile.csv").read_text().splitlines())
    assert float(first["update"]) > 0
    assert {float(second[part]) for part in PARTS} == {0.0}


def test_without_a_file_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile = Profile(None)
    with profile.part("saving"):
        pass
    profile.end_step(1)
    profile.sync()
    assert list(tmp_path.iterdir()) == []
