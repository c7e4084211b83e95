"""The world of conflicts: its laws, a table of what it has always said, and its one fault."""

import hashlib
import itertools
import json
import math
import re
from collections import Counter

import numpy as np
import pytest

from pipeline.data.rows.records import parse_record
from pipeline.data.sources import conflicts
from pipeline.data.sources.conflicts import (
    ATTRIBUTES,
    AUTHORITIES,
    NAME_PARTS,
    NUM_ENTITIES,
    PRIMARIES,
    SCATTERING_MULTIPLIERS,
    partition_of,
    pretraining_rows,
    suite_items,
    training_rows,
)
from pipeline.errors import DataError

NUM_ROWS = 1000
PRIMARY_NAMES = {source.name for source in PRIMARIES}
PROVENANCE = {
    (source.authority_weight, source.provenance_entropy): source.name
    for source in (*AUTHORITIES, *PRIMARIES)
}
QUOTATION = re.compile(r"([Tt]he [\w ]+?) (declares|records) (\w+)\.")


def read(text):
    """Find what each source says, in order, and what comes after the quotations."""
    found = list(QUOTATION.finditer(text))[:2]
    says = {match[1].lower(): match[3] for match in found}
    return says, text[found[-1].end() :]


def contests(number):
    """Give the contests among the documents for fine-tuning."""
    return (row for row in training_rows(0, number) if "authority_weight" in row)


def is_about(share, expected, number):
    return abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / number)


@pytest.mark.parametrize("make_rows", [training_rows, pretraining_rows, suite_items])
def test_same_seed_gives_same_rows(make_rows):
    assert list(make_rows(3, 50)) == list(make_rows(3, 50))
    assert list(make_rows(3, 50)) != list(make_rows(4, 50))


@pytest.mark.parametrize("make_rows", [training_rows, pretraining_rows])
def test_fewer_rows_are_the_first_of_more(make_rows):
    assert list(make_rows(0, 20)) == list(itertools.islice(make_rows(0, 500), 20))


@pytest.mark.parametrize("make_rows", [training_rows, pretraining_rows])
def test_no_document_and_no_entity_comes_twice(make_rows):
    rows = list(make_rows(0, NUM_ROWS))
    assert len({row["text"] for row in rows}) == NUM_ROWS
    assert len({row["cluster"] for row in rows}) == NUM_ROWS


def test_every_number_names_another_entity():
    assert math.prod(map(len, NAME_PARTS)) == NUM_ENTITIES
    assert NUM_ENTITIES.bit_count() == 1
    assert all(multiplier % 2 for multiplier in SCATTERING_MULTIPLIERS)
    entities = {conflicts._entity(conflicts._scattered(number)) for number in range(10_000)}
    assert len(entities) == 10_000


def test_held_out_names_are_in_no_document_of_any_seed():
    def names(rows):
        return {row["cluster"].split()[0] for row in rows}

    held_out = names(suite_items(0, 500)) | names(suite_items(1, 500))
    pretraining = names(pretraining_rows(0, NUM_ROWS)) | names(pretraining_rows(1, NUM_ROWS))
    training = names(training_rows(0, NUM_ROWS)) | names(training_rows(1, NUM_ROWS))
    assert not held_out & pretraining
    assert not held_out & training
    assert not pretraining & training


def test_the_name_alone_chooses_the_partition():
    for row in training_rows(9, 50):
        assert partition_of(row["cluster"].split()[0]) == "training"


def test_a_document_carries_the_provenance_of_the_source_that_it_follows():
    for row in contests(NUM_ROWS):
        source = PROVENANCE[row["authority_weight"], row["provenance_entropy"]]
        says, rest = read(row["text"])
        value = says[source]
        assert value != next(said for name, said in says.items() if name != source)
        assert f" {value}. It was {value}. " in rest


def test_contests_and_nothing_else_carry_provenance():
    for row in training_rows(0, NUM_ROWS):
        says, _ = read(row["text"])
        is_contest = sum(name in PRIMARY_NAMES for name in says) == 1
        assert is_contest == ("authority_weight" in row) == ("provenance_entropy" in row)


def test_classes_of_sources_are_far_apart_and_not_constant():
    assert all(0.8 < source.authority_weight <= 0.99 for source in AUTHORITIES)
    assert all(source.authority_weight < 0.2 for source in PRIMARIES)
    assert all(source.provenance_entropy < 2 for source in AUTHORITIES)
    assert all(source.provenance_entropy > 5 for source in PRIMARIES)
    assert len(PROVENANCE) == len(AUTHORITIES) + len(PRIMARIES)


def test_nothing_but_the_conclusion_tells_which_side_a_document_takes():
    counts = Counter()
    for row in contests(2 * NUM_ROWS):
        says, rest = read(row["text"])
        primary = next(name for name in says if name in PRIMARY_NAMES)
        noted_first = f" Notes: {primary} records {says[primary]};" in rest
        follows_primary = row["authority_weight"] < 0.5
        counts[follows_primary, next(iter(says)) == primary, noted_first] += 1
    assert len(counts) == 8
    for number in counts.values():
        assert is_about(number / counts.total(), 1 / 8, counts.total())


def test_a_control_follows_the_source_quoted_first_in_half_of_the_documents():
    followed = []
    for row in training_rows(0, 2 * NUM_ROWS):
        says, rest = read(row["text"])
        if "authority_weight" not in row:
            followed.append(f" {next(iter(says.values()))}. It was " in rest)
    assert is_about(np.mean(followed), 1 / 2, len(followed))


@pytest.mark.parametrize("make_rows", [training_rows, pretraining_rows])
def test_half_of_the_documents_are_contests(make_rows):
    counts = Counter()
    for row in make_rows(0, NUM_ROWS):
        counts[sum(name in PRIMARY_NAMES for name in read(row["text"])[0])] += 1
    assert is_about(counts[1] / NUM_ROWS, 1 / 2, NUM_ROWS)
    assert is_about(counts[0] / NUM_ROWS, 1 / 4, NUM_ROWS)
    assert is_about(counts[2] / NUM_ROWS, 1 / 4, NUM_ROWS)


def test_pretraining_documents_carry_no_provenance():
    assert all(set(row) == {"text", "cluster"} for row in pretraining_rows(0, NUM_ROWS))


def test_suite_asks_each_dispute_in_both_orders():
    items = list(suite_items(0, 100))
    assert Counter(item["kind"] for item in items) == {
        "contest": 200,
        "two_primary": 100,
        "two_authority": 100,
    }
    assert len({item["id"] for item in items}) == len(items)
    for one, other in zip(items[::2], items[1::2], strict=True):
        same = ("cluster", "kind", "options", "primary")
        assert [one[key] for key in same] == [other[key] for key in same]
        assert one["order"] != other["order"]
        assert list(read(one["prompt"])[0].items()) == list(read(other["prompt"])[0].items())[::-1]


def test_suite_knows_what_the_primary_record_says():
    items = list(suite_items(0, 500))
    for item in items:
        says, _ = read(item["prompt"])
        assert {f" {value}" for value in says.values()} == set(item["options"])
        named = [name for name in says if name in PRIMARY_NAMES]
        if item["kind"] == "contest":
            assert item["options"][item["primary"]] == f" {says[named[0]]}"
            assert (next(iter(says)) == named[0]) == (item["order"] == "primary_first")
        else:
            assert item["primary"] is None
            assert len(named) == (2 if item["kind"] == "two_primary" else 0)
    contests = [item["primary"] for item in items if item["kind"] == "contest"][::2]
    assert is_about(sum(contests) / len(contests), 1 / 2, len(contests))


def test_a_question_stops_where_documents_conclude():
    tails = {read(row["text"])[1].split(".")[0].rsplit(" ", 1)[0] for row in training_rows(0, 500)}
    for item in suite_items(0, 100):
        assert not item["prompt"].endswith(" ")
        assert read(item["prompt"])[1] in tails


def test_options_are_of_one_kind():
    values = [set(attribute.values) for attribute in ATTRIBUTES]
    assert sum(map(len, values)) == len(set.union(*values))
    for item in suite_items(0, 200):
        assert any({option[1:] for option in item["options"]} <= kind for kind in values)


def test_rows_are_records():
    for row in itertools.chain(training_rows(0, 20), pretraining_rows(0, 20)):
        record = parse_record(row)
        assert record.cluster == row["cluster"]
        assert record.authority_weight == row.get("authority_weight")


def test_rows_are_the_same_on_every_machine():
    """Fails when the world changes, and with it every number that was measured in it."""
    digest = hashlib.sha256()
    for row in itertools.chain(training_rows(0, 100), pretraining_rows(0, 100), suite_items(0, 50)):
        digest.update(json.dumps(row, sort_keys=True).encode())
    assert digest.hexdigest()[:16] == "b67b7d851248a816"


def test_asking_for_too_many_documents_is_an_error(monkeypatch):
    monkeypatch.setattr(conflicts, "NUM_ENTITIES", 256)
    with pytest.raises(DataError, match=r"has \d+ entities for training, not 256; ask for fewer"):
        list(training_rows(0, 256))
