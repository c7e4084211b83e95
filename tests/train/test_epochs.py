"""Epochs as a number of steps."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from pipeline.data.order import BatchOrder
from pipeline.train.epochs import steps_in, with_num_steps
from tests.support.drive import parameters

LENGTHS = np.array([3, 9, 4, 8, 5, 7, 6] * 11)
SKEWED = np.where(LENGTHS > 6, 1.9, 0.1).astype(np.float32)


@pytest.mark.parametrize("size", [{"batch_size": 4}, {"batch_tokens": 20}])
@pytest.mark.parametrize("num_epochs", [1.0, 3.0])
def test_every_document_is_read_once_in_each_epoch(size, num_epochs):
    order = BatchOrder(LENGTHS, seed=3, **size)
    steps = range(1, 1 + steps_in(order, num_epochs))
    read = np.concatenate([order.documents(step) for step in steps])
    assert np.bincount(read).tolist() == [num_epochs] * len(LENGTHS)


@pytest.mark.parametrize(("num_epochs", "steps"), [(0.5, 10), (2.25, 45), (1e-6, 1)])
def test_a_part_of_an_epoch_is_that_part_of_its_steps(num_epochs, steps):
    assert steps_in(BatchOrder(LENGTHS, seed=3, batch_size=4), num_epochs) == steps


def test_with_batches_of_tokens_the_steps_are_those_of_the_documents_that_are_drawn():
    usual, drawn = (
        BatchOrder(LENGTHS, seed=3, batch_tokens=30, probabilities=each) for each in (None, SKEWED)
    )
    assert steps_in(drawn, 2.0) > steps_in(usual, 2.0)  # long documents are drawn more often
    half = steps_in(drawn, 2.0) - steps_in(drawn, 1.0)
    assert steps_in(drawn, 1.5) == steps_in(drawn, 1.0) + round(half / 2)


def test_a_run_of_some_epochs_is_that_of_their_steps_which_are_printed(world, capsys):
    given = OmegaConf.create(parameters())
    given.train.num_steps, given.train.num_epochs = None, 1.5
    found = with_num_steps(given, world / "prepared")
    assert capsys.readouterr().err == "train: 1.5 x 40 documents are 10 steps (train.num_epochs)\n"
    assert (given.train.num_steps, given.train.num_epochs) == (None, 1.5)
    same = OmegaConf.create(parameters(train__num_steps=10))
    same.train.num_epochs = None
    assert found == same
    assert with_num_steps(same, world / "prepared") is same
    assert capsys.readouterr().err == ""
