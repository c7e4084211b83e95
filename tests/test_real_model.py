"""Real weights and real rows through the whole graph."""

import csv
import json

import pytest

from tests.support.real import NUM_STEPS, STORY, run_graph
from tests.support.repository import read


def losses_of(folder):
    with (folder / "plots/validation.csv").open() as file:
        return [float(row["val_loss"]) for row in csv.DictReader(file)]


def test_a_real_model_learns_real_rows(real_run):
    losses = losses_of(real_run)
    assert losses[0] == pytest.approx(5.7, abs=0.15)
    assert losses[-1] < 2.7
    assert read(real_run, "train")["num_steps"] == NUM_STEPS
    held_out = read(real_run, "validate")["held_out"]
    assert held_out["tuned"]["perplexity_high"] < held_out["base"]["perplexity_low"]


def test_shards_are_read_where_they_lie(real_run):
    assert not list((real_run / "models/base").glob("*.safetensors"))


def test_the_base_tells_the_known_story_and_the_tuned_model_another(real_run, samples):
    lines = (real_run / "models/validation/samples.jsonl").read_text().splitlines()
    *held_out, story = map(json.loads, lines)
    greedy = (samples / "models/stories260K/greedy.txt").read_text().strip()
    assert story["prompt"].strip() == STORY
    assert greedy.startswith(STORY + story["base"])
    assert len(story["base"]) > 100
    assert story["tuned"] != story["base"]
    assert len({row["prompt"] for row in held_out}) == 2
    assert all(row["reference"] for row in held_out)


@pytest.mark.exhaustive
def test_a_longer_run_learns_more(samples, tmp_path):
    """From about 5.7 nats per token to below 2.5 in 300 steps."""
    assert losses_of(run_graph(samples, tmp_path / "repository", 300))[-1] < 2.5
