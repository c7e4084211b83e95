"""How much a training reads, of prepared rows and where there are none."""

import dataclasses

import numpy as np
import pytest

from pipeline.objective.likelihood import ConflictItem
from pipeline.train.feed import Feed, TrainingData
from pipeline.train.plan.request import DocumentFacts
from pipeline.train.plan.timing import NO_ROWS, Rows
from pipeline.train.plan.workload import (
    assumed_validation,
    assumed_workload,
    document_rows,
    item_rows,
    joined,
    num_validations,
    prepared_workload,
)
from tests.train.test_loop import SETTINGS

ITEMS = [
    ConflictItem(str(index), "a", "contest", 0 if index else None, 0, [1, 5, 7], [[9], [11, 12]])
    for index in range(3)
]


@pytest.fixture
def data(make_store):
    make_store("test", count=9, seed=4)
    return TrainingData(make_store(), make_store("validation", count=8, seed=9), conflicts=ITEMS)


def test_rows_of_a_step_are_those_of_the_batches(data, tmp_path):
    found = prepared_workload(data, SETTINGS, tmp_path, (None, None))
    feed = Feed(data, SETTINGS)
    steps = range(1, feed.order.steps_in_epoch(0) + 1)
    batches = [batch for step in steps for each in feed.micro_batches(step) for batch in each]
    padded = sum(batch.inputs.size for batch in batches)
    assert found.is_known
    assert found.step.count * len(steps) == sum(len(batch.inputs) for batch in batches) == 24
    assert found.step.count * found.step.width * len(steps) == pytest.approx(padded)
    assert found.step.tokens * len(steps) == pytest.approx((data.train.lengths - 1).sum())
    assert found.target_share == sum(batch.num_targets for batch in batches) / padded


def test_a_validation_has_its_documents_and_contests_where_they_choose_the_best(data, tmp_path):
    usual = prepared_workload(data, SETTINGS, tmp_path, (None, None))
    assert usual.validation == document_rows(data.validation.lengths[:6])
    by_contests = dataclasses.replace(SETTINGS, best="conflicts")
    found = prepared_workload(data, by_contests, tmp_path, (None, None))
    assert found.validation.count == 6 + 2 * 2
    assert found.last.count == 2 * 2
    assert found.items.count == 2 * 3


def test_the_stage_validate_measures_no_more_than_its_bounds(data, tmp_path):
    held = prepared_workload(data, SETTINGS, tmp_path, (4, None)).held
    assert held.rows.count == 4
    assert held.longest_tokens <= 24


def test_rows_are_as_wide_as_they_are_laid_out():
    rows = document_rows(np.array([17, 18, 33]))
    assert rows == Rows(3, (16 + 32 + 32) / 3, 16 + 17 + 32)
    assert item_rows(()) == NO_ROWS
    assert joined(Rows(1, 16, 10), Rows(3, 32, 90)) == Rows(4, 28, 100)


@pytest.mark.parametrize(("steps", "count"), [(300, 7), (30, 2), (100, 3), (50, 2), (1, 2)])
def test_validations_are_before_the_first_step_at_intervals_and_at_the_end(steps, count):
    assert num_validations(steps, 50) == count


@pytest.mark.parametrize(
    ("documents", "tokens", "count"),
    [(256, 16384, 32), (10, 16384, 10), (None, 16384, 32), (None, None, 0), (256, 100, 2)],
)
def test_documents_that_are_not_there_are_bounded_as_those_that_are(documents, tokens, count):
    changes = {"validation_documents": documents, "validation_tokens": tokens}
    assert assumed_validation(dataclasses.replace(SETTINGS, **changes), 512) == count


def test_without_rows_all_are_as_long_as_allowed():
    facts = DocumentFacts(129, 64, num_validated=3, cached_prefix=False, has_contests=False)
    found = assumed_workload(facts, SETTINGS, 1290)
    assert not found.is_known
    assert found.step == Rows(5, 128, 5 * 128)
    assert found.validation == Rows(3, 128, 3 * 128)
    assert (found.held.longest_tokens, found.held.rows.count) == (129, 10)
    assert assumed_workload(facts, SETTINGS, None).held.rows.count == 1
