"""One line says what was left out, and nothing is said of what was not."""

import pytest

from pipeline.data.notice import notice_of

NOTHING = {
    "rows": 60,
    "bad_rows": 0,
    "rows_without_targets": 0,
    "unanswered_messages": 0,
    "control_tokens_in_text": 0,
    "separate_conversations": 0,
    "repeated_tokens": 0,
    "truncated_documents": 0,
    "truncated_tokens": 0,
    "leaked_documents": 0,
    "max_seq_len": 64,
}


def test_nothing_to_say():
    assert notice_of(NOTHING) is None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"unused_columns": ["ask", "say"]},
            "no row has these columns of data.columns: ['ask', 'say']",
        ),
        ({"bad_rows": 2}, "2 of 60 rows are bad and went to quarantine.jsonl"),
        (
            {"rows_without_targets": 3},
            "3 of 60 rows have nothing to learn and were left out",
        ),
        ({"unanswered_messages": 7}, "7 messages after the last answer of a row were left out"),
        (
            {"control_tokens_in_text": 6},
            "6 control tokens in the text of rows are read as the tokens",
        ),
        (
            {"separate_conversations": 8, "repeated_tokens": 90},
            "8 conversations became a document for each answer, because later messages change "
            "what the model is given; 90 tokens are read again",
        ),
        (
            {"truncated_documents": 5, "truncated_tokens": 99},
            "5 documents were truncated to data.max_seq_len=64 tokens, which dropped 99 tokens",
        ),
        ({"leaked_documents": 4}, "4 held-out documents are also in train"),
        (
            {"bad_rows": 1, "leaked_documents": 4},
            "1 of 60 rows are bad and went to quarantine.jsonl; "
            "4 held-out documents are also in train",
        ),
    ],
)
def test_what_was_changed_is_said(changes, line):
    assert notice_of(NOTHING | changes) == line
