"""The program with torch and peft: what it reads; test_compare.py next to it trains with it."""

import itertools
import json

import pytest

from pipeline.benchmark.peers.job import Job
from pipeline.benchmark.peers.torch_peft import batches, token_rows
from pipeline.data.tokenize.tokenizer import train_tokenizer


@pytest.fixture
def job(tmp_path):
    texts = ["select from table", "where name equals year", "value"]
    train_tokenizer(iter(texts), 300, tmp_path / "model")
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    return Job(str(tmp_path / "model"), str(tmp_path), "", "", 2, 2, 1e-3, 8, seed=3)


def test_rows_end_with_the_token_that_ends_a_text(job):
    rows = token_rows(job)
    assert len(rows) == 3
    assert len({row[-1] for row in rows}) == 1
    assert rows[0][-1] not in rows[0][:-1]


def test_each_epoch_has_every_whole_batch_in_another_order(job):
    rows = [[number] for number in range(7)]
    found = list(itertools.islice(batches(rows, job), 30))
    assert all(len(batch) == 2 for batch in found)
    epochs = [[row[0] for batch in found[i : i + 3] for row in batch] for i in range(0, 30, 3)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)  # no row twice, and one left out
    assert len(set(map(tuple, epochs))) > 1
