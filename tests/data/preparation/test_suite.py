"""The held-out questions of the built-in world, with the tokens that a model is asked in."""

import pytest

from pipeline.data.preparation.suite import suite_rows
from pipeline.data.sources.conflicts import suite_items
from pipeline.data.tokenize.tokenizer import load_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    items = list(suite_items(3, 20))
    train_tokenizer((item["prompt"] for item in items), 400, folder)
    tokenizer = load_tokenizer(folder)
    return tokenizer, list(suite_rows(tokenizer, items))


def test_options_continue_their_prompt(rows):
    tokenizer, found = rows
    for row in found:
        for option, ids in zip(row["options"], row["option_ids"], strict=True):
            text = tokenizer.decode(row["prompt_ids"] + ids, skip_special_tokens=True)
            assert text == row["prompt"] + option


def test_a_contest_counts_the_primary_source_and_a_control_the_first(rows):
    for row in rows[1]:
        counted = row["options"][row["counted"]]
        other = row["options"][1 - row["counted"]]
        if row["kind"] == "contest":
            assert row["counted"] == row["primary"]
        else:
            assert row["prompt"].index(f"{counted}.") < row["prompt"].index(f"{other}.")
