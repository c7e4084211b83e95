"""Rows are checked one by one, and their hashes see content, not its dress."""

import math
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import (
    HASH_BYTES,
    Answer,
    Conversation,
    Text,
    normalised,
    parse_record,
)

USER, ASSISTANT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
spaces = st.text(" \t\n\u00a0\u3000", min_size=1, max_size=3)


@settings(deadline=None)
@given(st.lists(words.filter(lambda word: word.strip()), min_size=1), st.data())
def test_case_space_and_composition_do_not_change_the_hash(parts, data):
    plain = unicodedata.normalize("NFC", " ".join(" ".join(parts).split()))
    dressed = data.draw(spaces).join(["", *plain.split(" "), ""])
    dressed = unicodedata.normalize("NFD", dressed)
    assert parse_record({"text": plain}).content_hash() == (
        parse_record({"text": dressed}).content_hash()
    )


@settings(deadline=None)
@given(st.text("aB \n", min_size=1).map("x{}".format))
def test_case_does_not_change_the_hash(text):
    hashes = {
        parse_record({"text": dressed}).content_hash()
        for dressed in (text, text.upper(), text.lower())
    }
    assert len(hashes) == 1
    assert normalised("STRASSE") == normalised("straße")


@given(st.text(st.characters(codec="ascii")))
def test_plain_text_is_normalised_as_any_other(text):
    assert f"{normalised(text)} é".strip() == normalised(f"{text} é")


@settings(deadline=None)
@given(st.text("ab ", min_size=1), st.text("ab ", min_size=1))
def test_different_content_has_different_hashes(first, second):
    records = [
        parse_record({"prompt": f"x{one}", "completion": f"y{two}"})
        for one, two in [(first, second), (second, first)]
    ]
    same = normalised(f"x{first}") == normalised(f"x{second}")
    assert (records[0].content_hash() == records[1].content_hash()) == same
    assert len(records[0].content_hash()) == HASH_BYTES


def test_shapes_do_not_share_hashes():
    rows = [
        {"text": "a b"},
        {"prompt": "a", "completion": "b"},
        {"prompt": "a b", "completion": "b"},
        {"messages": [USER, ASSISTANT]},
        {"messages": [USER, USER, ASSISTANT]},
        {"messages": [USER, ASSISTANT], "tools": [{"name": "search"}]},
    ]
    assert len({parse_record(row).content_hash() for row in rows}) == len(rows)


def test_the_cluster_decides_the_split_and_not_the_content_hash():
    alone, first, second = (
        parse_record({"text": text, **cluster})
        for text, cluster in [("a", {}), ("a", {"cluster": "k"}), ("b", {"cluster": "k"})]
    )
    assert key_of(first) == key_of(second) != key_of(alone) == alone.content_hash()
    assert first.content_hash() == alone.content_hash() != second.content_hash()
    # a document whose text is the name of a cluster is not in that cluster
    assert key_of(parse_record({"text": "k"})) != key_of(first)


def key_of(record):
    return record.split_key(record.content_hash())


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"text": "a"}, Text("a")),
        ({"text": "a", "id": 3, "prompt": None, "messages": None}, Text("a")),
        ({"prompt": "a", "completion": " b"}, Answer("a", " b")),
        ({"messages": [USER, ASSISTANT]}, Conversation([USER, ASSISTANT])),
        (
            {"messages": [{"role": "system", "content": ""}, USER, ASSISTANT], "tools": []},
            Conversation([{"role": "system", "content": ""}, USER, ASSISTANT], []),
        ),
    ],
)
def test_shapes(row, content):
    assert parse_record(row).content == content


def test_a_prompt_that_repeats_the_first_question_is_ignored():
    row = {"prompt": USER["content"], "prompt_id": "1", "messages": [USER, ASSISTANT]}
    assert parse_record(row).content == Conversation([USER, ASSISTANT])


def test_messages_in_prompt_and_completion_are_learnt_in_the_completion():
    content = parse_record(
        {"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT, USER]}
    ).content
    assert content == Conversation(
        [USER, ASSISTANT, USER, ASSISTANT], weights=(1.0, 0.0, 1.0, 1.0), left_out=1
    )


def test_an_answer_may_be_a_call_without_content():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    result = {"role": "tool", "content": ""}
    record = parse_record({"messages": [USER, call, result, ASSISTANT]})
    assert record.content == Conversation([USER, call, result, ASSISTANT])


@pytest.mark.parametrize(
    ("row", "authority", "entropy"),
    [
        ({}, None, None),
        ({"authority_weight": 0, "provenance_entropy": 0}, 0.0, 0.0),
        ({"auth_weight": 0.99, "prov_entropy": 6.5}, 0.99, 6.5),
        ({"authority_weight": 0.5, "provenance_entropy": None}, 0.5, None),
    ],
)
def test_provenance(row, authority, entropy):
    record = parse_record({"text": "a", **row})
    assert (record.authority_weight, record.provenance_entropy) == (authority, entropy)


@pytest.mark.parametrize("row", [{"text": "a"}, {"prompt": "a", "completion": "b"}])
def test_the_weight_of_a_row(row):
    weights = [parse_record({**row, "weight": weight}).weight for weight in (0, 0.25, 1, None)]
    assert weights == [0.0, 0.25, 1.0, 1.0]


def test_weights_of_answers_stand_apart_from_the_messages():
    halved = {**ASSISTANT, "weight": 0.5}
    record = parse_record({"messages": [USER, halved, USER, ASSISTANT], "weight": 0.1})
    assert record.content == Conversation(
        [USER, ASSISTANT, USER, ASSISTANT], None, (1.0, 0.5, 1.0, 1.0)
    )
    assert record.weight == 0.1
    assert halved["weight"] == 0.5, "the row is left as it was"
    for weight in (1, 1.0, None):
        row = {"messages": [USER, {**ASSISTANT, "weight": weight}]}
        assert parse_record(row).content == Conversation([USER, ASSISTANT])


def test_weights_do_not_make_another_document():
    hashes = {
        key_of(
            parse_record({"messages": [USER, {**ASSISTANT, "weight": weight}], "weight": weight})
        )
        for weight in (0, 0.5, 1)
    }
    assert len(hashes) == 1


def test_null_in_a_message_counts_as_absent():
    columns = {"tool_calls": None, "name": None, "weight": None}
    record = parse_record({"messages": [{**USER, **columns}, {**ASSISTANT, **columns}]})
    assert record.content == Conversation([USER, ASSISTANT])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "the row is a list, not an object"),
        ("text", "the row is a string, not an object"),
        (None, "the row is null"),
        ({}, "needs text, prompt and completion, or messages; the row has nothing"),
        ({"content": "a", "id": 1}, "the row has content, id; .data.columns.THEIRS"),
        ({"text": None}, "the row has nothing"),
        ({"text": "a", "messages": [USER, ASSISTANT]}, "has text, messages at once"),
        ({"text": "a", "completion": "b"}, "has text, completion at once"),
        ({"prompt": "a"}, "completion is missing, and prompt is there"),
        ({"completion": "a"}, "prompt is missing, and completion is there"),
        ({"text": 3}, "text is a number, not a string"),
        ({"text": ["a"]}, "text is a list, not a string"),
        ({"text": True}, "text is a boolean, not a string"),
        ({"text": ""}, "text is empty"),
        ({"text": [], "weight": 1}, "text is a list, not a string"),
        ({"text": " \n\t\u3000"}, "text is only white space"),
        ({"prompt": "a", "completion": " "}, "completion is only white space"),
        ({"text": "a\0b"}, "text holds a NUL character"),
        ({"text": "a\ud800b"}, r"text holds half a surrogate pair \(\\ud800\)"),
        ({"text": "a", "cluster": 3}, "cluster is a number, not a string"),
        ({"text": "a", "cluster": ""}, "cluster is empty"),
        ({"text": "a", "authority_weight": "high"}, "authority_weight is a string, not a number"),
        ({"text": "a", "authority_weight": True}, "authority_weight is a boolean, not a number"),
        ({"text": "a", "authority_weight": 0.995}, "is 0.995, not between 0 and 0.99"),
        ({"text": "a", "auth_weight": -0.1}, "auth_weight is -0.1, not between"),
        ({"text": "a", "authority_weight": math.nan}, "authority_weight is nan, not between"),
        ({"text": "a", "prov_entropy": -1}, "prov_entropy is -1, not between 0 and 64"),
        ({"text": "a", "provenance_entropy": math.inf}, "provenance_entropy is inf"),
        ({"text": "a", "provenance_entropy": 10**400}, "provenance_entropy is 1000"),
        (
            {"text": "a", "auth_weight": 0, "authority_weight": 0},
            "authority_weight and auth_weight are the same thing; keep one",
        ),
        ({"text": "a", "weight": 1.5}, "weight is 1.5, not between 0 and 1"),
        ({"text": "a", "weight": "1"}, "weight is a string, not a number"),
        ({"text": "a", "weight": True}, "weight is a boolean, not a number"),
        (
            {"messages": [USER, {**ASSISTANT, "weight": -1}]},
            r"messages\[1\]: weight is -1, not between 0 and 1",
        ),
        (
            {"messages": [USER, {**ASSISTANT, "weight": math.nan}]},
            r"messages\[1\]: weight is nan, not between",
        ),
        (
            {"messages": [USER, {**ASSISTANT, "weight": [1]}]},
            r"messages\[1\]: weight is a list, not a number",
        ),
        (
            {"messages": [{**USER, "weight": 1}, ASSISTANT]},
            r"messages\[0\] \(user\) has a weight; only answers of the assistant are learnt",
        ),
        ({"messages": {"role": "user"}}, "messages is an object, not a list"),
        ({"messages": []}, "messages is empty"),
        ({"messages": ["hello"]}, r"messages\[0\] is a string, not an object"),
        ({"messages": [{"content": "a"}]}, r"messages\[0\]: unknown role None"),
        ({"messages": [USER, {"role": "bot", "content": "a"}]}, "unknown role 'bot'; it must be"),
        ({"messages": [{"role": ["user"], "content": "a"}, ASSISTANT]}, "unknown role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}, ASSISTANT]},
            r"messages\[0\] \(user\): content\[0\] is no text",
        ),
        ({"messages": [{"role": "user", "content": " "}, ASSISTANT]}, r"\(user\): content is emp"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "content is empty"),
        ({"messages": [USER]}, "there is no answer of the assistant to learn from"),
        ({"messages": [USER, ASSISTANT], "prompt": "What?"}, "prompt, messages at once; keep one"),
        ({"chosen": [], "rejected": []}, "training on preferences is not supported"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "the row has chosen and rejected: training on preferences is not supported; to learn "
            r"what is chosen, add \+data\.columns\.chosen=messages \(or completion\)",
        ),
        ({"prompt": [USER], "completion": "a"}, "prompt is a list, not a string"),
        (
            {"messages": [USER, {"role": "assistant", "content": "a", "tool_calls": ["\0"]}]},
            r"messages\[1\] holds a NUL",
        ),
        ({"messages": [USER, ASSISTANT], "tools": "search"}, "tools is not a list of objects"),
        ({"messages": [USER, ASSISTANT], "tools": [{"\udfff": 1}]}, "tools holds half a surr"),
    ],
)
def test_bad_rows(row, message):
    with pytest.raises(RowError, match=message):
        parse_record(row)
