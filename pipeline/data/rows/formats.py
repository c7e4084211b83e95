"""Rows with other names of columns, and rows of other formats, as the rows of docs/data.md."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.rows.fields import RowError, checked_text, kind_of
from pipeline.data.rows.metadata import KEYS as METADATA_KEYS
from pipeline.data.rows.records import ALIASES, SHAPES, Record, parse_record

ALPACA, SHAREGPT = ("instruction", "output"), ("conversations",)
COLUMNS = (
    *(key for shape in SHAPES for key in shape),
    *("tools", "weight", "cluster", "metadata", *ALIASES, *ALIASES.values(), *METADATA_KEYS),
    *(*ALPACA, *SHAREGPT, "input", "system", "history"),
)
"""Every name that a column may be given."""
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
"""Names of ShareGPT for our roles; other names are ours already."""
RENAMED = "renamed column "
"""Before the name of a column in counts: how many rows have it."""
Row = dict[str, Any]


@dataclass(frozen=True)
class RowReader:
    """Makes records of rows as they stand in files.

    Attributes:
        format: `data.format`.
        columns: `data.columns`, their name to ours.
        with_metadata: whether to read what a row says about its source.
        counts: how many rows have each of `columns`.
    """

    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    with_metadata: bool = False
    counts: Counter[str] = field(default_factory=Counter, compare=False)

    def record_of(self, row: object) -> Record:
        """Make a record of a row; see `parse_record`.

        Raises:
            RowError: with what is wrong.
        """
        if isinstance(row, Mapping) and (self.columns or "text" not in row or len(row) > 1):
            given = {key: value for key, value in row.items() if value is not None}
            self.counts.update(RENAMED + name for name in self.columns if name in row)
            renamed = with_names(given, self.columns)
            row = FORMATS[self.format](renamed)
        return parse_record(row, self.with_metadata)


PLAIN_ROWS = RowReader("plain")
"""Reads rows as docs/data.md describes them."""


def with_names(row: Row, columns: Mapping[str, str]) -> Row:
    """Rename columns.

    Raises:
        RowError: when the row has a column of the new name too.
    """
    renamed = {name: value for name, value in row.items() if name not in columns}
    for theirs, ours in columns.items():
        if theirs not in row:
            continue
        if ours in renamed:
            raise RowError(
                f"the row has {theirs} and {ours}, and data.columns makes {theirs} {ours}; "
                f"name {ours} in data.columns too, or leave {theirs} out of it"
            )
        renamed[ours] = row[theirs]
    return renamed


def detected(row: Row) -> Row:
    """Convert a row whose columns are those of another format.

    Raises:
        RowError: when it has columns of ours too, so that it could mean either.
    """
    for name, keys in (("alpaca", ALPACA), ("sharegpt", SHAREGPT)):
        if not row.keys() >= {*keys}:
            continue
        ours = [key for shape in SHAPES for key in shape if key in row]
        if ours:
            raise RowError(
                f"the row has {', '.join(ours)}, and {', '.join(keys)} as rows of {name} do; "
                f"set data.format to plain or {name}"
            )
        return FORMATS[name](row)
    return row


def from_alpaca(row: Row) -> Row:
    """Convert instruction, input and output, with an optional system prompt and history.

    Raises:
        RowError: when one of them is missing, or is no text.
    """
    require(row, ALPACA)
    asked = [checked_text("instruction", row["instruction"])]
    if row.get("input"):
        asked.append(checked_text("input", row["input"]))
    turns = [turn for pair in pairs_of(row.get("history")) for turn in pair]
    texts = [*turns, "\n\n".join(asked), checked_text("output", row["output"])]
    roles = ("user", "assistant") * (len(texts) // 2)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    rest = without(row, (*ALPACA, "input", "system", "history", "text", "prompt", "completion"))
    return {**rest, "messages": [*system_of(row), *messages]}


def pairs_of(history: object) -> list[list[str]]:
    """Return earlier questions and answers.

    Raises:
        RowError: when they are no pairs of texts.
    """
    if not history:
        return []
    pairs = list[list[str]]()
    given: list[Any] = history if isinstance(history, list) else [None]
    for index, pair in enumerate(given):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError(f"history[{index}] is no list of a question and an answer")
        pairs.append([checked_text(f"history[{index}]", text) for text in pair])
    return pairs


def from_sharegpt(row: Row) -> Row:
    """Convert conversations of turns with `from` and `value`.

    Raises:
        RowError: when there are none, or a turn is no object.
    """
    require(row, SHAREGPT)
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise RowError(f"conversations is {kind_of(turns)}, not a list")
    messages = [message_of(index, turn) for index, turn in enumerate(turns)]
    rest = without(row, (*SHAREGPT, "system", "text", "prompt", "completion", "messages"))
    return {**rest, "messages": [*system_of(row), *messages]}


def message_of(index: int, turn: object) -> Row:
    """Convert one turn of ShareGPT.

    Raises:
        RowError: when it is no object, or a call of a function is no JSON object.
    """
    if not isinstance(turn, dict):
        raise RowError(f"conversations[{index}] is {kind_of(turn)}, not an object")
    role, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    rest = without(turn, ("from", "role", "value", "content"))
    if role == "function_call":
        call = read_call(index, content)
        return {**rest, "role": "assistant", "content": None, "tool_calls": [call]}
    return {**rest, "role": ROLES.get(str(role), role), "content": content}


def read_call(index: int, content: object) -> Row:
    """Read the call of a function that is written as JSON.

    Raises:
        RowError: when it is no object.
    """
    try:
        function = json.loads(content) if isinstance(content, str) else content
    except ValueError:
        function = None
    if not isinstance(function, dict):
        raise RowError(f"conversations[{index}] (function_call) is no JSON object")
    return {"type": "function", "function": function}


def system_of(row: Row) -> list[Row]:
    """Return the system prompt of a row as a message; nothing where it has none."""
    system = row.get("system")
    return [{"role": "system", "content": system}] if system else []


def require(row: Row, keys: tuple[str, ...]) -> None:
    """Refuse a row that lacks columns of its format.

    Raises:
        RowError: with the columns, and what it has.
    """
    missing = [key for key in keys if key not in row]
    if missing:
        found = ", ".join(map(str, list(row)[:6])) or "nothing"
        raise RowError(f"needs {' and '.join(missing)}; the row has {found}")


def without(row: Row, keys: tuple[str, ...]) -> Row:
    """Return a row without some of its columns."""
    return {key: value for key, value in row.items() if key not in keys}


FORMATS: dict[str, Callable[[Row], Row]] = {
    "auto": detected,
    "plain": lambda row: row,
    "alpaca": from_alpaca,
    "sharegpt": from_sharegpt,
}
