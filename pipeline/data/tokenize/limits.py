"""What a tokenizer of a stranger may do with a text: grow it only so far, and fail as an error."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokenizers import Tokenizer

from pipeline.errors import ModelError

MOST_IDS = 2**31 - 1
"""Ids are stored in 32 bits."""
MAX_GROWTH = 64
"""How many letters a tokenizer may write for one, and how often it may repeat a text."""


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turn a panic of the library, which is no `Exception`, and its plain exceptions into an error.

    Its own limits end so, for example that of a pattern that tries too many ways.

    Raises:
        ModelError: with what it says.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise ModelError(
            f"model.source: its tokenizer fails with a text: {str(error)[:300]}.\n"
            "Look at the patterns in its tokenizer.json, or choose another model."
        ) from error


def growth_problem(tokenizer: Tokenizer) -> str | None:
    """Describe why the texts that a tokenizer makes could fill the memory; None if they cannot."""
    growth = growth_of(described(tokenizer.normalizer))
    if growth > MAX_GROWTH:
        return f"its normalizer writes up to {growth} letters for one; {MAX_GROWTH} are allowed"
    pieces = pieces_of(described(tokenizer.post_processor))
    if pieces > MAX_GROWTH:
        return f"its post_processor writes {pieces} pieces; {MAX_GROWTH} are allowed"
    return None


def described(part: Any) -> dict[str, Any] | None:  # noqa: ANN401
    """Return the description of a part of a tokenizer, as in its file."""
    return None if part is None else json.loads(part.__getstate__())


def growth_of(part: dict[str, Any] | None) -> int:
    """Return how many letters a normalizer may write for one, by its replacements."""
    if part is None:
        return 1
    written = [len(str(part.get(name, ""))) for name in ("content", "prepend")]
    return math.prod([max(1, *written), *map(growth_of, part.get("normalizers", []))])


def pieces_of(part: dict[str, Any] | None) -> int:
    """Return how many pieces a post-processor makes of a text."""
    if part is None:
        return 1
    inner = math.prod(map(pieces_of, part.get("processors", [])))
    return max(1, len(part.get("single", []))) * inner
