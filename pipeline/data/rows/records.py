"""One row of training data, checked: text, prompt and completion, or a conversation."""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.data.rows.fields import MAX_WEIGHT, RowError, checked_number, checked_text, kind_of
from pipeline.data.rows.messages import checked_messages, checked_tools
from pipeline.data.rows.metadata import NO_METADATA, Metadata, parse_metadata

MAX_AUTHORITY_WEIGHT = 0.99
MAX_ENTROPY_BITS = 64.0
"""More than any row needs; training weights grow exponentially with it and must stay finite."""
HASH_BYTES = 16
SHAPES = (("text",), ("prompt", "completion"), ("messages",))
"""The columns of the content; a row has those of one shape."""
PREFERENCE = {"chosen", "rejected"}
PREFERENCE_PROBLEM = (
    "the row has chosen and rejected: training on preferences is not supported; "
    "to learn what is chosen, add +data.columns.chosen=messages (or completion)"
)
ALIASES = {"authority_weight": "auth_weight", "provenance_entropy": "prov_entropy"}


class Text(NamedTuple):
    """A document, all of which is learnt; a tuple, which is fast to make: most rows are texts."""

    text: str

    def parts(self) -> Iterator[str]:
        """Return what makes this content differ from another."""
        yield self.text


@dataclass(frozen=True)
class Answer:
    """A prompt, and a completion that is learnt."""

    prompt: str
    completion: str

    def parts(self) -> Iterator[str]:
        """Return what makes this content differ from another."""
        yield from (self.prompt, self.completion)


@dataclass(frozen=True)
class Conversation:
    """Messages, of which the assistant's are learnt, and the tools that it may call.

    Attributes:
        messages: messages without their weights, so that no template sees these.
        tools: None where the row has none.
        weights: one per message, 1 on those that are not the assistant's; None where all are 1.
        left_out: how many messages after the last answer the row has.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    weights: tuple[float, ...] | None = None
    left_out: int = 0

    def parts(self) -> Iterator[str]:
        """Return what makes this content differ from another."""
        for part in (*self.messages, *(self.tools or [])):
            yield json.dumps(part, sort_keys=True, ensure_ascii=False)


class Record(NamedTuple):
    """A row and where its content comes from; a tuple, because there are millions of them.

    Attributes:
        content: the text, and which of it is learnt.
        authority_weight: how much its source rests on authority, 0 to 0.99; None: not known.
        provenance_entropy: bits of independent evidence behind it; None: not known.
        cluster: all rows of a cluster are in one split; None: the row is in no cluster.
        metadata: what the row says about its source, for the provenance scorer.
        weight: how much the targets of the row count, 0 to 1; not part of the content.
    """

    content: Text | Answer | Conversation
    authority_weight: float | None = None
    provenance_entropy: float | None = None
    cluster: str | None = None
    metadata: Metadata = NO_METADATA
    weight: float = 1.0

    def content_hash(self) -> bytes:
        """Hash the content; case, white space and Unicode composition make no difference."""
        return digest(type(self.content).__name__, *map(normalised, self.content.parts()))

    def split_key(self, content_hash: bytes) -> bytes:
        """Return what decides the split: a hash of the cluster if it has one, or the content's."""
        return content_hash if self.cluster is None else digest("cluster", self.cluster)


def normalised(text: str) -> str:
    """Return the same string for texts that differ in case, white space or composition alone."""
    if text.isascii():  # gives the same, and faster
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def digest(*parts: str) -> bytes:
    """Hash strings, none of which holds a NUL."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=HASH_BYTES).digest()


def parse_record(row: object, with_metadata: bool = False) -> Record:
    """Check a row and make a record of it; unknown keys are ignored.

    A key whose value is null counts as absent, because exported tables have every column in
    every row. Without `with_metadata`, keys such as `year` are unknown and may hold anything.

    Raises:
        RowError: with what is wrong.
    """
    if not isinstance(row, Mapping):
        raise RowError(f"the row is {kind_of(row)}, not an object")
    if len(row) == 1 and row.get("text") is not None:  # most rows; the rest would find the same
        return Record(Text(checked_text("text", row["text"])))
    present = {key: value for key, value in row.items() if value is not None}
    return Record(
        parse_content(present),
        parse_number(present, "authority_weight", MAX_AUTHORITY_WEIGHT),
        parse_number(present, "provenance_entropy", MAX_ENTROPY_BITS),
        checked_text("cluster", present["cluster"]) if "cluster" in present else None,
        parse_metadata(present) if with_metadata else NO_METADATA,
        checked_number("weight", present.get("weight", 1.0), MAX_WEIGHT),
    )


def parse_content(row: Mapping[str, Any]) -> Text | Answer | Conversation:
    """Read the content of a row, which has one of three shapes.

    A `prompt` next to `messages` that repeats their first question is ignored.

    Raises:
        RowError: when it has none of them, several, or half of one.
    """
    shapes = [keys for keys in SHAPES if row.keys() & keys]
    if is_repeated_prompt(row):
        shapes = [("messages",)]
    if len(shapes) != 1:
        raise shape_error(row)
    if missing := [key for key in shapes[0] if key not in row]:
        if row.keys() >= PREFERENCE:
            raise RowError(PREFERENCE_PROBLEM)
        raise RowError(
            f"{missing[0]} is missing, and {(set(shapes[0]) - set(missing)).pop()} is there"
        )
    if shapes[0] == ("messages",):
        return conversation_of(row, row["messages"])
    if len(shapes[0]) > 1 and all(isinstance(row[key], list) for key in shapes[0]):
        return conversation_of(row, messages_of_lists(row["prompt"], row["completion"]))
    texts = [checked_text(key, row[key]) for key in shapes[0]]
    return Text(*texts) if len(texts) == 1 else Answer(*texts)


def is_repeated_prompt(row: Mapping[str, Any]) -> bool:
    """Whether a row has messages, and a prompt that is the first of the user's messages."""
    messages = row.get("messages")
    if not isinstance(messages, list) or row.keys() & {"text", "completion"}:
        return False
    questions = [m for m in messages if isinstance(m, dict) and m.get("role") == "user"]
    return "prompt" in row and bool(questions) and questions[0].get("content") == row["prompt"]


def shape_error(row: Mapping[str, Any]) -> RowError:
    """Return the error of a row that has no shape, or more than one."""
    found = [key for keys in SHAPES for key in keys if key in row]
    if found:
        return RowError(
            f"the row has {', '.join(found)} at once; keep one way to state what to learn, or name "
            "the others something else in data.columns"
        )
    if row.keys() >= PREFERENCE:
        return RowError(PREFERENCE_PROBLEM)
    names = ", ".join(map(str, list(row)[:6])) or "nothing"
    return RowError(
        f"needs text, prompt and completion, or messages; the row has {names}; "
        "+data.columns.THEIRS=OURS gives a column one of these names"
    )


def conversation_of(row: Mapping[str, Any], messages: object) -> Conversation:
    """Check messages and tools.

    Raises:
        RowError: with what is wrong with them.
    """
    kept, left_out = checked_messages(messages)
    weights = tuple(float(message.pop("weight", 1)) for message in kept)
    tools = checked_tools(row.get("tools"))
    return Conversation(kept, tools, weights if set(weights) != {1.0} else None, left_out)


def messages_of_lists(prompt: list[Any], completion: list[Any]) -> list[Any]:
    """Join a prompt and a completion that are messages; answers in the prompt are not learnt."""
    return [
        {**message, "weight": 0}
        if isinstance(message, dict) and message.get("role") == "assistant"
        else message
        for message in prompt
    ] + completion


def parse_number(row: Mapping[str, Any], name: str, maximum: float) -> float | None:
    """Read a number of the provenance, under its name or its alias; None where it has neither.

    Raises:
        RowError: when it is no number or out of range.
    """
    names = [key for key in (name, ALIASES[name]) if key in row]
    if not names:
        return None
    if len(names) > 1:
        raise RowError(f"{names[0]} and {names[1]} are the same thing; keep one")
    return checked_number(names[0], row[names[0]], maximum)
