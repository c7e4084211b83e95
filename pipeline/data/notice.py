"""One line that names what a preparation left out or cut."""

from typing import Any

from pipeline.data.sources.source import QUARANTINE

NOTICES = {
    "unused_columns": "no row has these columns of data.columns: {unused_columns}",
    "bad_rows": f"{{bad_rows}} of {{rows}} rows are bad and went to {QUARANTINE}",
    "rows_without_targets": (
        "{rows_without_targets} of {rows} rows have nothing to learn and were left out"
    ),
    "unanswered_messages": (
        "{unanswered_messages} messages after the last answer of a row were left out"
    ),
    "control_tokens_in_text": (
        "{control_tokens_in_text} control tokens in the text of rows are read as the tokens"
    ),
    "separate_conversations": (
        "{separate_conversations} conversations became a document for each answer, because later "
        "messages change what the model is given; {repeated_tokens} tokens are read again"
    ),
    "truncated_documents": (
        "{truncated_documents} documents were truncated to data.max_seq_len={max_seq_len} tokens, "
        "which dropped {truncated_tokens} tokens"
    ),
    "leaked_documents": "{leaked_documents} held-out documents are also in train",
}


def notice_of(metrics: dict[str, Any]) -> str | None:
    """Return what was changed or left out, in one line; None where nothing was.

    Args:
        metrics: the metrics of the preparation.
    """
    notices = [text.format(**metrics) for name, text in NOTICES.items() if metrics.get(name)]
    return "; ".join(notices) or None
