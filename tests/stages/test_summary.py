"""The summary has the results of one chain of runs, and of no other."""

import json
import sys

import pytest

from pipeline.errors import PipelineError
from stages.summary import main, summary


@pytest.fixture
def run(tmp_path):
    """Make the folder of a run that has written some metrics, and return its path."""

    def make(name, inputs, metrics, folders=()):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra/config.yaml").write_text(f"inputs: {inputs or 'null'}\n")
        (tmp_path / name / "metrics").mkdir()
        for stage, values in metrics.items():
            (tmp_path / name / f"metrics/{stage}.json").write_text(json.dumps(values))
        for folder in folders:
            (tmp_path / name / folder).mkdir(parents=True)
        return str(tmp_path / name)

    return make


def test_a_run_is_summed_up_with_those_that_it_was_made_from(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    base = run("base", None, {"weights": {"base_tensors": 7, "base_bytes": 10**6}}, ["models/base"])
    (tmp_path / "base/metrics/train.json").write_text("{}")  # the nearer run's are taken
    losses = dict.fromkeys(["train_loss", "val_loss", "best_val_loss"], 0.5)
    counts = {"num_steps": 3, "best_step": 3, "trainable_parameters": 40}
    trained = run("trained", base, {"train": losses | counts}, ["models/trained"])
    lines = summary(trained)
    assert lines[0] == "weights: 7 tensors, 1.0 MB"
    assert lines[1].startswith("train: 3 steps, loss 0.500; ")
    assert lines[2] == "written: base/models/base, trained/models/trained"
    assert f"python -m stages.generate inputs={trained} --prompt" in lines[3]
    assert len(lines) == 5
    (tmp_path / "base/metrics/train.json").unlink()
    assert len(summary(base)) == 2  # nothing is trained


def test_a_run_without_metrics_is_refused(run, monkeypatch, capsys):
    empty = run("empty", None, {}, ["models/base"])
    with pytest.raises(PipelineError, match=r"no stage has written metrics \(looked in .*empty\)"):
        summary(empty)
    monkeypatch.setattr(sys, "argv", ["summary", "/nowhere"])
    assert main() == 1
    assert "inputs=/nowhere: there is no such run folder" in capsys.readouterr().err
