"""The learning rate by what is trained, optimizer and size, and what is said of it."""

import itertools
import re

import pytest

from pipeline.config.optimizers import OPTIMIZERS
from pipeline.optim.automatic_rate import (
    ADAPTERS,
    FACTORS,
    RATES,
    automatic_rate,
    peak_rate,
    rate_note,
)
from stages.params import composed
from tests.support.small import ROOT

TOY, SMOLLM2, LLAMA_8B, LLAMA_70B = 338_592, 134_515_008, 8_030_261_248, 70_553_706_496


@pytest.mark.parametrize(
    ("mode", "num_parameters", "rate"),
    [
        ("lora", TOY, 2e-3),  # the default run, whose bits depend on it
        ("full", TOY, 2e-3),
        ("lora", SMOLLM2, 5e-4),
        ("dora", SMOLLM2, 5e-4),
        ("full", SMOLLM2, 5e-5),
        ("head", SMOLLM2, 5e-5),
        ("tensors", SMOLLM2, 5e-5),
        ("lora", LLAMA_8B, 2e-4),
        ("full", LLAMA_8B, 2e-5),
        ("lora", LLAMA_70B, 1e-4),
        ("full", LLAMA_70B, 1e-5),
    ],
)
def test_the_rate_follows_what_is_trained_and_the_size_of_the_base(mode, num_parameters, rate):
    assert automatic_rate(mode, "adamw", num_parameters) == rate


def test_a_larger_model_never_has_a_greater_rate():
    for kind in (1, 2):
        rates = [row[kind] for row in RATES]
        assert all(less >= more for less, more in itertools.pairwise(rates))


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [("adam", 2e-3), ("muon", 2e-3), ("adafactor", 2e-3), ("lion", 5e-4), ("sgd", 0.1)],
)
def test_each_optimizer_has_its_own_rate(optimizer, rate):
    assert automatic_rate("lora", optimizer, TOY) == rate


def test_every_optimizer_and_mode_has_a_rate():
    assert FACTORS.keys() == OPTIMIZERS.keys()
    assert set(ADAPTERS) < {"lora", "dora", "head", "full", "tensors"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_conf_leaves_the_rate_to_the_model(name):
    rows = ["data=jsonl", "data.path=rows.jsonl", "model=local", "model.source=x"]
    for given in ([], rows, ["experiment=smollm2"]):
        assert composed([f"optim={name}", *given]).optim.learning_rate == "auto"


@pytest.mark.parametrize(("asked", "peak"), [("auto", 3e-4), (1, 1.0), (0.5, 0.5)])
def test_a_number_stands_for_itself(asked, peak):
    assert peak_rate(asked, 3e-4) == peak


def test_the_automatic_rate_is_said():
    assert rate_note("auto", 5e-4) == "the learning rate is 0.0005 (optim.learning_rate=auto)"


def test_a_rate_ten_times_the_automatic_one_is_warned_about_with_what_to_set():
    assert rate_note(1e-3, 2e-4) == rate_note(1.99e-3, 2e-4) == ""
    text = rate_note(5e-3, 2e-4)
    assert text.startswith("optim.learning_rate=0.005 is 25 times as much as what is usual for")
    assert "Set optim.learning_rate=auto, which is 0.0002, unless" in text
    assert rate_note(2e-3, 2e-4)


def test_the_documents_have_the_table():
    text = (ROOT / "docs/optimizers.md").read_text()
    cells = [re.findall(r"\d+e-\d", line) for line in text.splitlines() if "parameters |" in line]
    assert [[float(cell) for cell in row] for row in cells] == [list(row[1:]) for row in RATES]
