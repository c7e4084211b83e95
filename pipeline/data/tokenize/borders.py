"""Where a tokenizer certainly begins a new token, and how it encodes the middle of a text."""

import json
import re
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from pipeline.data.tokenize.limits import described, panics_as_errors

Component = dict[str, Any]
WINDOW = 256
"""Where the last control token of a prompt is looked for first, in characters from its end."""


class Borders:
    """Facts of one tokenizer, read from its own description.

    Every text is cut at control tokens before anything else happens to it. With most tokenizers
    what is on one side does not change the tokens of the other side, so both can be encoded apart.

    Args:
        tokenizer: of the model.
        closing: the token that closes an answer; empty where there is none.

    Attributes:
        are_certain: whether a text can be cut after each control token without changing a token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, closing: str) -> None:
        self.backend = tokenizer.backend_tokenizer
        tokens = tokenizer.added_tokens_decoder.values()
        cutting = [token.content for token in tokens if token.special and not token.normalized]
        alternatives = "|".join(map(re.escape, sorted(cutting, key=len, reverse=True)))
        self.pattern = re.compile(alternatives or r"(?!)")
        self.are_certain = (
            not any(token.lstrip or token.rstrip or token.single_word for token in tokens)
            and not marks_the_first_word_alone(described(self.backend.pre_tokenizer))
            and not self.backend.model.dropout
            and not (closing and closing not in cutting)
        )

    def tail(self, prompt: str) -> str:
        """Return the end of a prompt on which the tokens of its answer depend."""
        size = WINDOW if self.are_certain else 0
        while size > 0:
            window = prompt[-size:]
            ends = [found.end() for found in self.pattern.finditer(window)]
            if ends:
                return window[ends[-1] :]
            size = 4 * size if size < len(prompt) else 0
        return prompt

    def continuation(self, text: str) -> list[int]:
        """Encode a text as the continuation of another one: nothing is put before it."""
        with panics_as_errors():
            return self.inner.encode(text, add_special_tokens=False).ids

    @cached_property
    def inner(self) -> Tokenizer:
        """The same tokenizer, which puts no mark or space before the first word of a text."""
        description = json.loads(self.backend.to_str())
        for part in ("normalizer", "pre_tokenizer"):
            description[part] = without_mark(description[part])
        return Tokenizer.from_str(json.dumps(description))


def marks_the_first_word_alone(part: Component | None) -> bool:
    """Whether a pre-tokenizer marks the first word of a text, and no first word after a token."""
    if part is None:
        return False
    inner = part.get("pretokenizers", [])
    return part.get("prepend_scheme") == "first" or any(map(marks_the_first_word_alone, inner))


def without_mark(part: Component | None) -> Component | None:
    """Return a normalizer or pre-tokenizer that puts nothing before a text."""
    if part is None or part["type"] == "Prepend":
        return None
    changes = {"prepend_scheme": "never", "add_prefix_space": False}
    part = {**part, **{name: value for name, value in changes.items() if name in part}}
    for inner in ("normalizers", "pretokenizers"):
        if inner in part:
            part[inner] = [kept for each in part[inner] if (kept := without_mark(each))]
    return part
