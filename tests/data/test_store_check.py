"""A store that lies is refused, with the document and what is wrong with it."""

import numpy as np
import pytest

from pipeline.data.store import DOCUMENT
from pipeline.data.store_check import Contents, contradictions

TARGETS = [0, 1, 1, 0, 0, 1, 1, 1]


def contents(tokens=(), targets=TARGETS, weights=None, header=5, **columns):
    """Make a store of documents of three and five tokens, with columns of the table changed."""
    table = np.zeros(2, DOCUMENT)
    table["start"], table["length"], table["num_targets"] = (0, 3), (3, 5), (2, 3)
    table["authority_weight"], table["provenance_entropy"] = (np.nan, 0.5), (np.nan, 6.0)
    for name, values in columns.items():
        table[name] = values
    ids = np.arange(8, dtype="<u2")
    ids[: len(tokens)] = tokens
    marks = np.array(targets, np.uint8).view(np.bool_)
    found = None if weights is None else np.array(weights, "<f4")
    return Contents(table, ids, marks, found, 8, header)


def test_a_store_that_is_whole():
    assert contradictions(contents()) == []
    assert contradictions(contents(weights=[1, 0.5, 1, 1, 1, 1, 1, 1])) == []


def test_a_store_without_documents():
    empty = Contents(np.zeros(0, DOCUMENT), np.zeros(0, "<u2"), np.zeros(0, np.bool_), None, 8, 0)
    assert contradictions(empty) == []


LIES = {
    "an id beyond the vocabulary": (
        {"tokens": [0, 9]},
        "tokens.bin has id 9; the vocabulary has 8",
    ),
    "a negative length": ({"length": (3, -5)}, "document 1 has -5 tokens, of 8 in tokens.bin"),
    "a length of one": ({"length": (1, 5)}, "document 0 has 1 tokens, of 8 in tokens.bin"),
    "a huge length": (
        {"length": (3, 100_000)},
        "document 1 has 100000 tokens, of 8 in tokens.bin",
    ),
    "a length that overflows": (
        {"length": (3, 2**63 - 1)},
        f"document 1 has {2**63 - 1} tokens, of 8 in tokens.bin",
    ),
    "an offset elsewhere": ({"start": (0, 2)}, "document 1 starts at token 2; must at 3"),
    "a negative offset": ({"start": (-1, 3)}, "document 0 starts at token -1; must at 0"),
    "an end elsewhere": ({"length": (3, 4)}, "documents.bin does not end where tokens.bin does"),
    "no targets": (
        {"targets": [0, 1, 1, 0, 0, 0, 0, 0], "header": 2, "num_targets": (2, 0)},
        "document 1 has no target",
    ),
    "other targets": (
        {"num_targets": (2, 4)},
        "document 1 does not have as many targets as documents.bin says",
    ),
    "a first target": (
        {"targets": [1, 1, 0, 0, 0, 1, 1, 1]},
        "document 0 starts with a target",
    ),
    "a mark that is none": (
        {"targets": [0, 1, 7, 0, 0, 1, 1, 1]},
        "targets.bin has a byte 7; must be 0 or 1",
    ),
    "another sum": ({"header": 6}, "targets.bin has 5 targets; store.json says 6"),
    "a weight of 0": (
        {"weights": [1, 0, 1, 1, 1, 1, 1, 1]},
        "weights.bin has weights from 0.0 to 1.0; must be above 0 and at most 1",
    ),
    "a weight of NaN": (
        {"weights": [1, np.nan, 1, 1, 1, 1, 1, 1]},
        "weights.bin has weights from nan to nan; must be above 0 and at most 1",
    ),
    "a negative authority": (
        {"authority_weight": (-0.5, np.nan)},
        "document 0 has authority_weight -0.5",
    ),
    "an infinite entropy": (
        {"provenance_entropy": (0.0, np.inf)},
        "document 1 has provenance_entropy inf",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_named(lie):
    changes, problem = LIES[lie]
    assert contradictions(contents(**changes)) == [problem]


def test_several_kinds_are_named_at_once():
    store = contents(tokens=[9], targets=[1, 1, 1, 0, 0, 1, 1, 1])
    assert contradictions(store) == [
        "tokens.bin has id 9; the vocabulary has 8",
        "document 0 starts with a target",
        "document 0 does not have as many targets as documents.bin says",
        "targets.bin has 6 targets; store.json says 5",
    ]
