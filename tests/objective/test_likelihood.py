"""Likelihoods: laws, and values by hand."""

import json
import math

import numpy as np
import pytest

from pipeline.data.batches import RowLayout, evaluation_batches
from pipeline.device import mx
from pipeline.errors import DataError
from pipeline.objective.likelihood import (
    ConflictItem,
    document_losses,
    option_log_likelihoods,
    primary_share,
    read_items,
    score_items,
    wilson,
)


def losses_of(model, store, arrangement="bucketed", batch_tokens=64):
    width = int(store.lengths.max())
    batches = evaluation_batches(
        store, np.arange(len(store)), RowLayout(arrangement, width), batch_tokens=batch_tokens
    )
    found = document_losses(model, batches)
    return found.loss_sums[np.argsort(found.documents)], found


def by_itself(model, store, index):
    tokens, mask = store.tokens(index), store.target_mask(index)
    logits = np.array(model(mx.array(tokens[None, :-1])), dtype=np.float64)[0]
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = log_probabilities[np.arange(len(tokens) - 1), tokens[1:]]
    return -(chosen * mask[1:]).sum()


@pytest.mark.parametrize("arrangement", ["bucketed", "packed"])
@pytest.mark.parametrize("batch_tokens", [16, 64, 4096])
def test_a_documents_loss_is_the_same_in_every_arrangement(
    tiny_model, make_store, arrangement, batch_tokens
):
    store = make_store()
    sums, _ = losses_of(tiny_model, store, arrangement, batch_tokens)
    wanted = [by_itself(tiny_model, store, index) for index in range(len(store))]
    np.testing.assert_allclose(sums, wanted, rtol=1e-5)


def test_the_mean_is_taken_over_tokens(tiny_model, make_store):
    store = make_store()
    sums, found = losses_of(tiny_model, store)
    assert found.mean == pytest.approx(sums.sum() / store.total_targets)
    assert found.num_targets.sum() == store.total_targets


def test_measuring_leaves_the_mode_of_the_model_alone(tiny_model, make_store):
    store = make_store(count=3)
    for mode in (True, False):
        tiny_model.train(mode)
        losses_of(tiny_model, store)
        assert tiny_model.training is mode


def test_options_are_scored_after_their_prompt(tiny_model):
    items = [([1, 5, 9], [[7], [8, 6]]), ([1, 4], [[3, 3, 3], [2]])]
    scores = option_log_likelihoods(tiny_model, items, rows=3)
    for (prompt, options), found in zip(items, scores, strict=True):
        for option, score in zip(options, found, strict=True):
            ids = prompt + option
            logits = np.array(tiny_model(mx.array([ids[:-1]])), dtype=np.float64)[0]
            logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            places = range(len(prompt) - 1, len(ids) - 1)
            wanted = sum(logs[place, ids[place + 1]] for place in places)
            assert score == pytest.approx(wanted, rel=1e-5)


def item(number, primary, kind="contest"):
    return ConflictItem(f"i{number}", "c", kind, primary, 0, [1, 5], [[7], [9]])


def test_the_share_counts_contests_won_by_the_primary_source(tiny_model):
    likelier = int(score_items(tiny_model, [item(0, 0)]).choices[0])
    items = [item(0, likelier), item(1, 1 - likelier), item(2, likelier), item(3, None, "two")]
    share = primary_share(tiny_model, items)
    assert share.share == pytest.approx(2 / 3)
    assert share.n == 3


def test_an_interval_holds_its_share_to_the_last_bit():
    for n in range(1, 2001):
        for successes in {0, 1, n // 2, n}:
            share = wilson(successes, n)
            assert 0 <= share.low <= share.share <= share.high <= 1


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # the reference values of evaluation suites of that size; 0/n gives the rule of three's kin
        (18, 24, 0.5510, 0.8800),
        (12, 12, 0.7575, 1.0),
        (0, 30, 0.0, 0.1135),
        (500, 1000, 0.4691, 0.5309),
    ],
)
def test_wilson_intervals(successes, n, low, high):
    share = wilson(successes, n)
    assert (share.low, share.high) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = [
        wilson(int(hits), 200).low <= 0.3 <= wilson(int(hits), 200).high
        for hits in generator.binomial(200, 0.3, size=2000)
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_mass_on_options_is_the_sum_of_their_probabilities(tiny_model):
    scores = score_items(tiny_model, [item(0, 0)])
    assert math.exp(scores.log_mass[0]) == pytest.approx(np.exp(scores.values[0]).sum())


ITEM = {
    "id": "a",
    "cluster": "b",
    "kind": "contest",
    "primary": None,
    "counted": 0,
    "prompt_ids": [1, 2],
    "option_ids": [[3], [4, 5]],
}
ROWS = {
    "{": r"is no JSON",
    "[]": r"holds \[\]; must hold an object",
    json.dumps({"id": "a"}): r".*\n  cluster: is missing(.*\n)+  option_ids: is missing",
    json.dumps(ITEM | {"prompt_ids": [1, -2]}): r".*\n  prompt_ids\[1\]: is -2; must be a whole",
    json.dumps(ITEM | {"option_ids": [3]}): r".*\n  option_ids\[0\]: is 3; must be a list",
    json.dumps(ITEM | {"primary": "0"}): r'.*\n  primary: is "0"; must be a whole number',
}


@pytest.mark.parametrize("row", ROWS)
def test_a_damaged_suite_is_named_by_its_line(tmp_path, row):
    path = tmp_path / "conflicts.jsonl"
    path.write_text(f"{json.dumps(ITEM)}\n{row}\n")
    with pytest.raises(DataError, match=rf"conflicts\.jsonl, line 2: {ROWS[row]}") as caught:
        read_items(path)
    assert str(caught.value).endswith("Run the prepare stage again: `dvc repro --force prepare`.")


def test_a_suite_that_is_gone_or_no_text(tmp_path):
    with pytest.raises(DataError, match=r"conflicts\.jsonl: there is no such file"):
        read_items(tmp_path / "conflicts.jsonl")
    (tmp_path / "conflicts.jsonl").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"conflicts\.jsonl: is no UTF-8 text \(byte 0\)"):
        read_items(tmp_path / "conflicts.jsonl")
    (tmp_path / "conflicts.jsonl").write_text(json.dumps(ITEM))
    assert [item.option_ids for item in read_items(tmp_path / "conflicts.jsonl")] == [[[3], [4, 5]]]
