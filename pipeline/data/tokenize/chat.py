"""From conversations to prompts and answers, as a model is asked and would answer."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

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
from pipeline.data.tokenize.template import ChatTemplate, as_template_takes, render

FREE_LETTERS, LETTERS_A_LETTER = 4_000_000, 16
"""Letters that may be written for one row, and what each letter of the row adds to them."""


class Turn(NamedTuple):
    """An answer that is learnt, and what the model is given when it is asked for it.

    Attributes:
        prompt: what the template writes of the messages before; where `kept` is not 0, without
            what it shares with the turn before.
        answer: what follows; it ends with the token that closes it, if it has one.
        weight: how much its tokens count.
        is_closed: whether it has such a token.
        place: index of the message; 0 for the completion of a prompt.
        kept: the letters of the turn before, if the whole prompt begins with all of them; or 0.
    """

    prompt: str
    answer: str
    weight: float
    is_closed: bool = False
    place: int = 0
    kept: int = 0


def turns_of(
    template: ChatTemplate, closing: Closing, conversation: Conversation, train_on: str
) -> Iterator[Turn]:
    """Render each learnt answer as the last one, after the prompt that asks for it.

    So what precedes an answer is, character by character, what the model is given when it is used,
    whatever the template writes of that answer once other messages follow.

    Args:
        template: of the model.
        closing: how the template closes an answer.
        conversation: the messages and tools.
        train_on: which answers are learnt: all, or the last.

    Raises:
        RowError: when the template fails or leaves out a part, or an answer does not continue its
            prompt.
    """
    learnt = learnt_answers(conversation, train_on)
    conversation = as_template_takes(template, conversation)
    turn = None
    for index, weight in learnt:
        turn = turn_of(template, closing, conversation, index, weight)
        yield turn
    if turn:
        check_context(template, conversation, turn.prompt, turn.place)


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
    template: ChatTemplate,
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
    prompt = render(template, conversation, index, ask=True)
    through = render(template, conversation, index + 1)
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


def shortened(turns: Iterable[Turn]) -> Iterator[Turn]:
    """Yield turns without what their prompts share with the turn before, so that they are short."""
    before = ""
    for turn in turns:
        kept = len(before) if turn.prompt.startswith(before) else 0
        yield turn._replace(prompt=turn.prompt[kept:], kept=kept)
        before = turn.prompt + turn.answer


def whole(turns: Sequence[Turn]) -> Iterator[Turn]:
    """Yield shortened turns with their whole prompts."""
    before = ""
    for turn in turns:
        prompt = before[: turn.kept] + turn.prompt
        yield turn._replace(prompt=prompt, kept=0)
        before = prompt + turn.answer


def check_letters(written: int, said: int) -> None:
    """Refuse a row for which far more is written than it says.

    Either the template writes much, or many prompts repeat what comes before them.

    Args:
        written: the letters of its prompts and answers.
        said: the letters of the row.

    Raises:
        RowError: with both.
    """
    if written > FREE_LETTERS + LETTERS_A_LETTER * said:
        raise RowError(
            f"prompts and answers have {written} letters or more, and the row {said}; more than "
            f"{FREE_LETTERS} and {LETTERS_A_LETTER} times those of the row are refused: write "
            "several rows, or set data.train_on=last"
        )


def first_break(turns: Sequence[Turn]) -> int | None:
    """Return the index of the first answer whose prompt is not what came before it and more.

    None: all turns, which are shortened, can be one document.
    """
    for before, turn in pairwise(turns):
        if not (turn.kept and before.is_closed):
            return turn.place
    return None
