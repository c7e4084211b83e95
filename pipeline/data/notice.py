"""What a preparation left out or cut, in one line."""

from typing import Any

from pipeline.data.sources.ingest import QUARANTINE

NOTICES = {
    "bad_rows": f"{{bad_rows}} of {{rows}} rows are bad and went to {QUARANTINE}",
    "rows_without_targets": (
        "{rows_without_targets} of {rows} rows have nothing to learn and were left out"
    ),
    "truncated_documents": (
        "{truncated_documents} documents were truncated to data.max_seq_len={max_seq_len} tokens, "
        "which dropped {truncated_tokens} tokens"
    ),
    "leaked_documents": "{leaked_documents} held-out documents are also in train",
}


def notice_of(metrics: dict[str, Any]) -> str | None:
    """Return a line that names what was changed or left out of the rows; None for nothing.

    Args:
        metrics: of the preparation.
    """
    said = [text.format(**metrics) for name, text in NOTICES.items() if metrics[name]]
    return "; ".join(said) or None
