"""Figures of runs as people read them."""

import json
import math

import pytest

from pipeline.config.figures import compared, decisive, merged, order_of, read_metrics, written
from pipeline.errors import PipelineError
from pipeline.external.json_files import Remedy

REMEDY = Remedy(PipelineError, "Run it again.")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (17467.241882265662, "17,470"),
        (999.96, "1000"),
        (1234.0, "1,234"),
        (0.6518944487832979, "0.6519"),
        (2.0, "2"),
        (0.002, "0.002"),
        (1e-5, "1e-05"),
        (-12345.6, "-12,350"),
        (0.0, "0"),
        (39168, "39,168"),
        (math.nan, "nan"),
        (None, "None"),
        (True, "True"),
        ([1.23456], "[1.23456]"),
    ],
)
def test_numbers_have_four_digits_and_counts_all_of_theirs(value, text):
    assert written(value) == text


def test_the_figures_that_are_compared_come_first_and_those_of_the_machine_last(tmp_path):
    (tmp_path / "metrics").mkdir()
    for name in ("a_machine", "machine", "b", "summary"):
        (tmp_path / f"metrics/{name}.json").write_text(json.dumps({"of": {name: 1}}))
    metrics = read_metrics(tmp_path, REMEDY)
    assert list(merged(metrics)) == ["of.summary", "of.machine", "of.b", "of.a_machine"]
    assert list(compared(metrics)) == ["of.summary", "of.machine"]
    (tmp_path / "metrics/b.json").write_text("{")
    with pytest.raises(PipelineError, match=r"b\.json: is no JSON .*\nRun it again\."):
        read_metrics(tmp_path, REMEDY)


def test_less_loss_is_better_unless_a_suite_was_measured():
    low, high = {"validation_loss": 1.0}, {"validation_loss": 2.0}
    assert sorted([{}, high, low], key=order_of) == [low, high, {}]
    assert decisive([{}, low]) == "validation_loss"
    turned = {**high, "conflicts_primary_share": 0.9}
    assert sorted([low, turned], key=order_of) == [turned, low]
    assert decisive([turned]) == "conflicts_primary_share"
    assert decisive([{"stage_seconds": 1.0}]) is None
