"""The few results by which people compare runs."""

import json

import pytest

from pipeline.errors import PipelineError
from pipeline.evaluate.summary import read_results, summary

TRAINING = {"val_loss": 0.75, "best_val_loss": 0.5, "learning_rate": 2e-3, "num_steps": 3}
METRICS = {"held_out": {"base": {"loss": 1.0}, "tuned": {"loss": 0.5, "perplexity": 1.65}}}
CONTEST = {"conflicts": {"contest": {"difference": 0.4}, "two_primary": {"difference": 0.0}}}
RESULTS = {
    "validation_loss": 0.75,
    "best_validation_loss": 0.5,
    "learning_rate": 2e-3,
    "base_loss": 1.0,
    "tuned_loss": 0.5,
    "tuned_perplexity": 1.65,
}


@pytest.mark.parametrize(("suite", "more"), [({}, {}), (CONTEST, {"conflicts_difference": 0.4})])
def test_the_results_of_a_run_are_few(suite, more):
    assert summary(TRAINING, METRICS | suite) == RESULTS | more


def test_results_that_cannot_be_used_are_refused(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(TRAINING))
    assert read_results(path) == TRAINING
    path.write_text(json.dumps({**TRAINING, "val_loss": None}))
    with pytest.raises(PipelineError, match=r"val_loss: is null.*\nTrain again: `dvc repro --f"):
        read_results(path)
