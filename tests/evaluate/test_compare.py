"""Base and tuned model compared."""

import inspect
import json
import math

import numpy as np
import pytest

from pipeline.evaluate.compare import perplexity_metrics, start_prompt, write_losses
from pipeline.objective.likelihood import DocumentLosses


def losses(sums):
    return DocumentLosses(np.array([2, 0, 1]), np.array(sums), np.array([4, 2, 4]))


def test_perplexity_is_of_all_targets_and_the_difference_is_paired():
    metrics = perplexity_metrics(losses([8.0, 4.0, 8.0]), losses([4.0, 2.0, 4.0]))
    assert (metrics["n_documents"], metrics["n_tokens"]) == (3, 10)
    assert metrics["base"]["perplexity"] == pytest.approx(math.exp(2))
    assert metrics["tuned"]["loss"] == pytest.approx(1)
    assert metrics["loss_difference"] == pytest.approx(-1)
    assert metrics["resolved"]


def test_rows_of_losses_are_in_the_order_of_documents(tmp_path):
    write_losses(losses([3.0, 1.0, 2.0]), losses([6.0, 4.0, 5.0]), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text().splitlines()]
    assert [row["document"] for row in rows] == [0, 1, 2]
    assert [row["base_loss_sum"] for row in rows] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("start", "prompt"), [(1, [1]), (None, [2]), (0, [0])])
def test_a_text_starts_with_its_start_token_or_the_end_token(start, prompt):
    class Tokenizer:
        bos_token_id, eos_token_id = start, 2

    assert inspect.unwrap(start_prompt)(Tokenizer())  # without checks of types == prompt
