"""From conversations to prompts and answers, as a model is asked and would answer."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Conversation
from pipeline.data.tokenize.closing import Closing
from pipeline.data.tokenize.left_out import (
    THOUGHT_END,
    THOUGHT_START,
    check_answer,
    check_context,
    thought_and_content,
)
from pipeline.data.tokenize.template import as_template_takes, render

MAX_MESSAGES = 1000
"""A template writes all messages before each answer, so the time grows with their square."""


class Turn(NamedTuple):
    """An answer that is learnt, and what the model is given when it is asked for it.

    Attributes:
        prompt: what the template writes of the messages before.
        answer: what follows; it ends with the token that closes it, if it has one.
        weight: how much its tokens count.
        is_closed: whether it has such a token.
        place: index of the message; 0 for the completion of a prompt.
    """

    prompt: str
    answer: str
    weight: float
    is_closed: bool = False
    place: int = 0


def turns_of(
    tokenizer: PreTrainedTokenizerFast, closing: Closing, conversation: Conversation, train_on: str
) -> list[Turn]:
    """Render each learnt answer as the last one, after the prompt that asks for it.

    So what precedes an answer is, character by character, what the model is given when it is used,
    whatever the template writes of that answer once other messages follow.

    Args:
        tokenizer: has the template.
        closing: how the template closes an answer.
        conversation: the messages and tools.
        train_on: which answers are learnt: all, or the last.

    Raises:
        RowError: when the template fails or leaves out a part, or an answer does not continue its
            prompt.
    """
    if len(conversation.messages) > MAX_MESSAGES:
        raise RowError(
            f"{len(conversation.messages)} messages; a row may have {MAX_MESSAGES}: "
            "write several rows"
        )
    learnt = learnt_answers(conversation, train_on)
    conversation = as_template_takes(tokenizer, conversation)
    turns = [turn_of(tokenizer, closing, conversation, index, weight) for index, weight in learnt]
    if turns:
        check_context(tokenizer, conversation, turns[-1].prompt, turns[-1].place)
    return turns


def learnt_answers(conversation: Conversation, train_on: str) -> list[tuple[int, float]]:
    """List the answers that are learnt: the index of each message, and its weight."""
    messages = conversation.messages
    first = len(messages) - 1 if train_on == "last" else 0  # a conversation ends with an answer
    weights = conversation.weights or (1.0,) * len(messages)
    return [
        (index, weights[index])
        for index in range(first, len(messages))
        if messages[index]["role"] == "assistant" and weights[index]
    ]


def turn_of(
    tokenizer: PreTrainedTokenizerFast,
    closing: Closing,
    conversation: Conversation,
    index: int,
    weight: float,
) -> Turn:
    """Render one answer after its prompt.

    Raises:
        RowError: when it has none or does not continue it, or a part of it is left out.
    """
    if index == 0:
        raise RowError("messages[0] is from 'assistant'; there is nothing that it answers")
    message = conversation.messages[index]
    prompt = render(tokenizer, conversation, index, ask=True)
    through = render(tokenizer, conversation, index + 1)
    answer = continuation(prompt, through, message)
    if answer is None:
        raise RowError(
            f"messages[{index}]: the chat template writes the messages before this answer in "
            "another way once it is there, so that prompt and answer cannot be told apart; choose "
            "a model with another template"
        )
    check_answer(message, answer, index)
    text, is_closed = closing.cut(answer, message.get("content") or "")
    return Turn(prompt, text, weight, is_closed, index)


def continuation(prompt: str, through: str, message: dict[str, Any]) -> str | None:
    """Return what follows a prompt; None where it is not certain.

    Some templates open a thought in the prompt, and write an answer that has been given without
    it. The model is asked to think all the same, so its answer is the thought, which may be empty,
    its end, and the answer.

    Args:
        prompt: what asks for the answer.
        through: the conversation up to the answer.
        message: the answer.
    """
    if through.startswith(prompt):
        return through[len(prompt) :]
    before, opened, rest = prompt.rpartition(THOUGHT_START)
    if not opened or rest.strip() or not through.startswith(before):
        return None
    thought, _ = thought_and_content(message)
    words = through[len(before) :].lstrip("\n")
    return f"{thought}\n{THOUGHT_END}\n\n{words}"


def first_break(turns: Sequence[Turn]) -> int | None:
    """Return the index of the first answer whose prompt is not what came before it and more.

    None: all turns can be one document.
    """
    for before, turn in pairwise(turns):
        whole = turn.prompt.startswith(before.prompt)
        if not (whole and turn.prompt.startswith(before.answer, len(before.prompt))):
            return turn.place
        if not before.is_closed:
            return turn.place
    return None
