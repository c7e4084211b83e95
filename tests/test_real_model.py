"""Real weights and real rows through the whole graph."""

import csv
import json

import pytest

from tests.support.repository import STAGES, fresh_clone, ran, read, run


@pytest.mark.parametrize(
    ("num_steps", "loss"), [(100, 2.7), pytest.param(300, 2.5, marks=pytest.mark.exhaustive)]
)
def test_a_real_model_learns_real_rows(samples, tmp_path, num_steps, loss):
    """The stories model on WikiSQL: from about 5.7 nats per token to below 2.5 in 300 steps."""
    folder = fresh_clone(tmp_path / "repository")
    overrides = {
        "data": "jsonl",
        "data.path": samples / "data/wikisql",
        "model": "local",
        "model.source": samples / "models/stories260K",
        "train.num_steps": num_steps,
        "train.validation_documents": 32,
        "validate.documents": 32,
        "validate.num_samples": 2,
    }
    arguments = [item for key, value in overrides.items() for item in ("-S", f"{key}={value}")]
    assert ran(run(folder, "dvc", "exp", "run", *arguments)) == list(STAGES)
    with (folder / "plots/validation.csv").open() as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
    assert losses[0] == pytest.approx(5.7, abs=0.15)
    assert losses[-1] < loss
    assert read(folder, "train")["num_steps"] == num_steps
    assert not list((folder / "models/base").glob("*.safetensors"))  # read where they lie
    first = json.loads((folder / "models/validation/samples.jsonl").read_text().splitlines()[0])
    greedy = (samples / "models/stories260K/greedy.txt").read_text().strip()
    assert first["base"].strip()
    assert greedy.startswith(first["base"].strip())
    assert first["tuned"] != first["base"]
    held_out = read(folder, "validate")["held_out"]
    assert held_out["tuned"]["perplexity_high"] < held_out["base"]["perplexity_low"]
