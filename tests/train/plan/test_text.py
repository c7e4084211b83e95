"""The plan as a person reads it."""

import dataclasses
import re
from pathlib import Path

import pytest

from pipeline.train.plan.graph import StagePlan
from pipeline.train.plan.report import GB, make_plan
from pipeline.train.plan.text import (
    WITHOUT_ROWS,
    Subject,
    Times,
    duration,
    memory_rows,
    plan_text,
    stage_lines,
    time_line,
)
from tests.support.plans import request_of, write_llama

OTHERS = 50_000_000
SUBJECT = Subject("model: toy", "train.mode=lora", "300 steps", are_rows_known=True)
TIMES = Times(300, 21.0, 7, 40.0, 3.0, 2.0, 86.4, {"train": 6585.0})


@pytest.fixture
def plan(tmp_path):
    return make_plan(request_of(write_llama(tmp_path), rows=2, micro=3))


def test_six_rows_show_the_memory(plan):
    rows = memory_rows(plan, OTHERS)
    assert [name for name, _, _ in rows] == [
        "weights",
        "trained weights, optimizer",
        "activations",
        "gradients, working memory",
        "peak of MLX",
        "footprint",
    ]
    sizes = {row.name: row.num_bytes for row in plan.rows}
    assert sum(size for _, size, _ in rows[:4]) == sizes["peak: forward and backward"]
    assert rows[4][1] == plan.peak_bytes
    assert rows[5][1] == plan.footprint_bytes + OTHERS
    assert rows[2][2] == "2 x 128 tokens, the largest of 3 micro-batches"


def test_the_plan_begins_with_what_is_trained_and_ends_with_verdict_and_time(plan):
    lines = plan_text(SUBJECT, plan, OTHERS, "It fits.", TIMES).splitlines()
    assert lines[:4] == ["model: toy", "train.mode=lora", "300 steps", ""]
    assert len(lines[4:10]) == 6
    assert re.fullmatch(r"  peak of MLX +[\d.]+ GB  accumulation", lines[8])
    assert lines[10:12] == ["", "It fits."]
    assert lines[12] == (
        "It takes 1 h 50 min: 300 steps of 21 s (86 tokens/s), 7 validations of 40 s."
    )


def test_without_rows_the_time_is_a_bound_and_that_is_said(plan):
    subject = Subject("model: toy", "", "", are_rows_known=False)
    text = plan_text(subject, plan, OTHERS, "It fits.", TIMES)
    assert f"\n{WITHOUT_ROWS}\n" in text
    assert "It takes at most 1 h 50 min: " in text


def test_a_time_that_is_not_known_is_said_to_be_so():
    assert "cannot be told here" in time_line(None, True)
    epochs = Times(0, 21.0, 1, 40.0, 3.0, 2.0, 86.4, {})
    assert time_line(epochs, False) == (
        "A step takes at most 21 s; how many train.num_epochs makes depends on the rows."
    )


def test_an_estimate_is_said_to_be_one(plan):
    text = plan_text(SUBJECT, dataclasses.replace(plan, problem="no graph"), 0, "", None)
    assert "The memory is only an estimate by formula: no graph" in text


def test_each_stage_has_memory_disk_and_time():
    stages = [
        StagePlan("train", 2 * GB, GB // 2, Path(), "the process", "less"),
        StagePlan("benchmark", 3 * GB, 0, Path(), "a model", "less"),
    ]
    assert stage_lines(stages, TIMES, verbose=False)[1:] == [
        "train        2.000 GB     0.500 GB  1 h 50 min",
        "benchmark    3.000 GB     0.000 GB",
    ]
    assert stage_lines(stages, None, verbose=True)[1:3] == [
        "train        2.000 GB     0.500 GB",
        "  the process",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.1234, "0.12 s"),
        (99.6, "100 s"),
        (150, "2 min"),
        (3600, "1 h 0 min"),
        (6585, "1 h 50 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_time_has_two_units_at_most(seconds, words):
    assert duration(seconds) == words
