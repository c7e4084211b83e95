"""The prompts of samples: what is read of held-out documents before the first target."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from pipeline.data.store import TokenStore

MOST_OF_A_TEXT = 64
"""Tokens of a text that is learnt as a whole, of which at most half is the prompt."""


class Prompt(NamedTuple):
    """What a model is asked.

    Attributes:
        ids: its tokens, at least one.
        reference: the tokens that follow in the data; none where that is not known.
    """

    ids: list[int]
    reference: list[int]


def held_out_prompts(
    store: TokenStore, count: int, has_room: Callable[[list[int]], bool]
) -> list[Prompt]:
    """Return the first different prompts of a store, and at most one of a conversation.

    Where each answer of a conversation is a document, the next one begins with the prompt of the
    one before.

    Args:
        store: of held-out documents.
        count: how many to return at most.
        has_room: whether there is room for an answer after a prompt.
    """
    found = dict[tuple[int, ...], Prompt]()
    before = Prompt([], [])
    for index in range(len(store)):
        if len(found) == count:
            break
        ids, mask = store.tokens(index), store.target_mask(index)
        prompt = prompt_of(ids, mask)
        goes_on = before.ids and ids[: len(before.ids)].tolist() == before.ids
        if has_room(prompt.ids) and not (goes_on and has_prompt(mask)):
            found.setdefault(tuple(prompt.ids), prompt)
        before = prompt
    return list(found.values())


def prompt_of(ids: Int32[np.ndarray, " length"], mask: Bool[np.ndarray, " length"]) -> Prompt:
    """Divide a document at its first target, and a text that has no prompt in its first half.

    Args:
        ids: of the document.
        mask: True where a token is learnt.
    """
    first, end = int(np.argmax(mask)), len(ids)
    if not has_prompt(mask):
        first = min(end // 2, MOST_OF_A_TEXT)
    elif not mask[first:].all():
        end = first + int(np.argmin(mask[first:]))
    return Prompt(ids[:first].tolist(), ids[first:end].tolist())


def has_prompt(mask: Bool[np.ndarray, " length"]) -> bool:
    """Whether a document has tokens before its first target; no other predicts the first one."""
    return int(np.argmax(mask)) > 1
