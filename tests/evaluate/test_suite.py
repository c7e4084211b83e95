"""The suite: what is counted, and how two models are compared on it."""

import numpy as np
import pytest

from pipeline.evaluate.suite import item_log, summarize
from pipeline.objective.likelihood import ConflictItem, Scores

PRIMARY = {"contest": 0, "two_primary": None}


def items_of(kinds):
    return [
        ConflictItem(
            f"i{n}", f"c{n // 2}", kind, 0 if kind == "contest" else None, 0, [1], [[2], [3]]
        )
        for n, kind in enumerate(kinds)
    ]


def scores_of(choices):
    return Scores(np.log([[0.6, 0.2] if choice == 0 else [0.2, 0.6] for choice in choices]))


def test_shares_and_their_difference():
    items = items_of(["contest"] * 8 + ["two_primary"] * 4)
    base = scores_of([0, 1] * 6)
    tuned = scores_of([*[0] * 8, *[0, 1] * 2])
    metrics = summarize(items, base, tuned)
    contest = metrics["contest"]
    assert (contest["n"], contest["base"]["share"], contest["tuned"]["share"]) == (8, 0.5, 1.0)
    assert contest["difference"] == 0.5
    assert contest["resolved"]
    assert contest["mcnemar_p"] == pytest.approx(0.125)
    control = metrics["two_primary"]
    assert (control["difference"], control["resolved"]) == (0, False)
    assert metrics["mass_on_options"]["base"] == pytest.approx(0.8)


def test_the_log_has_every_item():
    items = items_of(["contest", "two_primary"])
    log = item_log(items, scores_of([0, 1]), scores_of([1, 1]))
    assert [row["id"] for row in log] == ["i0", "i1"]
    assert [row["base"]["choice"] for row in log] == [0, 1]
    assert [row["tuned"]["choice"] for row in log] == [1, 1]
