"""Prompts of samples: what stands before the first target, each once."""

import numpy as np
import pytest

from pipeline.data.store import TokenStore, TokenStoreWriter
from pipeline.generate.prompts import MOST_OF_A_TEXT, held_out_prompts


@pytest.fixture
def store_of(tmp_path):
    """Write documents as pairs of ids and marks, where 1 is a target."""

    def write(*documents):
        with TokenStoreWriter(tmp_path / "store", 64) as writer:
            for ids, marks in documents:
                mask = np.array([mark == "1" for mark in marks])
                writer.add(np.array(ids, np.int32), mask, None, None)
        return TokenStore(tmp_path / "store")

    return write


def prompts(store, count=9, longest=99):
    return held_out_prompts(store, count, lambda ids: len(ids) <= longest)


CHAT = ([1, 5, 6, 7, 8], "00011")
TURNS = ([1, 5, 9, 7, 6, 5, 8], "0011001")
TEXT = ([1, 9, 8, 7, 6, 5, 4], "0111111")


@pytest.mark.parametrize(
    ("document", "prompt", "reference"),
    [
        (CHAT, [1, 5, 6], [7, 8]),
        (TURNS, [1, 5], [9, 7]),
        (TEXT, [1, 9, 8], [7, 6, 5, 4]),
        (([9, 8], "01"), [9], [8]),
    ],
    ids=["chat", "two turns", "text", "two tokens"],
)
def test_a_document_is_divided_at_its_first_target_and_a_text_in_the_middle(
    store_of, document, prompt, reference
):
    assert prompts(store_of(document)) == [(prompt, reference)]


def test_of_a_long_text_the_prompt_is_short(store_of):
    [prompt] = prompts(store_of((list(range(1, 64)) * 4, "0" + "1" * 251)))
    assert len(prompt.ids) == MOST_OF_A_TEXT
    assert len(prompt.ids) + len(prompt.reference) == 252


def test_every_prompt_is_there_once_in_the_order_of_the_rows(store_of):
    other = ([1, 5, 6, 9], "0001")  # the prompt of CHAT, and another answer
    store = store_of(TEXT, CHAT, other, TURNS, CHAT, TEXT)
    assert [prompt.ids for prompt in prompts(store)] == [[1, 9, 8], [1, 5, 6], [1, 5]]
    assert [prompt.ids for prompt in prompts(store, count=2)] == [[1, 9, 8], [1, 5, 6]]
    assert prompts(store, count=0) == []


def test_of_a_conversation_with_a_document_for_each_answer_only_the_first_is_asked(store_of):
    second = ([*CHAT[0], 10, 11, 12], "00000011")
    third = ([*second[0], 13, 14], "0000000001")
    assert [prompt.ids for prompt in prompts(store_of(CHAT, second, third, TURNS))] == [
        [1, 5, 6],
        [1, 5],
    ]


def test_a_prompt_that_leaves_no_room_is_left_out(store_of):
    assert [prompt.ids for prompt in prompts(store_of(CHAT, TURNS), longest=2)] == [[1, 5]]
