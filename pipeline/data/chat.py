"""Conversations to text by the model's own template, with the borders of every answer."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from pipeline.data.fields import RowError
from pipeline.data.records import Conversation

STANDING_DATE = """{%- macro strftime_now(format) -%}
{{ format | replace("%d", "26") | replace("%B", "July") | replace("%b", "Jul") | replace("%m", "07")
 | replace("%Y", "2024") | replace("%y", "24") | replace("%A", "Friday") | replace("%a", "Fri")
 | replace("%H", "12") | replace("%M", "00") | replace("%S", "00") }}
{%- endmacro +%}"""
"""Some templates write today's date into the system prompt; the same rows must give the same
tokens tomorrow. The day is the one that Llama 3's template falls back to."""


@dataclass(frozen=True)
class Piece:
    """A stretch of text that is tokenized by itself, so that no token crosses its borders.

    Attributes:
        text: what to tokenize.
        is_target: whether its tokens are to be learnt.
        is_opening: whether the tokenizer may add its beginning-of-sequence token.
    """

    text: str
    is_target: bool
    is_opening: bool = False


def conversation_pieces(
    tokenizer: PreTrainedTokenizerFast, conversation: Conversation
) -> list[Piece]:
    """Cut the rendered conversation into prompts and answers, one after the other.

    A prompt is what the template makes of the messages before an answer when it is asked for one,
    character by character what the model is given when it is used.

    Raises:
        RowError: when the tokenizer has no template, the template refuses the messages, or it
            gives no such borders.
    """
    full = render(tokenizer, conversation)
    pieces, end = list[Piece](), 0
    for index, start, stop in answers(tokenizer, conversation, full):
        if start < end:
            raise border_error(index)
        pieces += [Piece(full[end:start], False), Piece(full[start:stop], True)]
        end = stop
    if not any(piece.text for piece in pieces if piece.is_target):
        raise RowError("the chat template writes nothing of the answers")
    return [piece for piece in [*pieces, Piece(full[end:], False)] if piece.text]


def answers(
    tokenizer: PreTrainedTokenizerFast, conversation: Conversation, full: str
) -> Iterator[tuple[int, int, int]]:
    """Give the index of each assistant message, and where in the full text it starts and stops."""
    for index, message in enumerate(conversation.messages):
        if message["role"] != "assistant":
            continue
        if index == 0:
            raise RowError("messages[0] is from 'assistant'; there is nothing that it answers")
        prompt = render(tokenizer, conversation, index, ask=True)
        if not full.startswith(prompt):
            raise border_error(index)
        through = render(tokenizer, conversation, index + 1)
        yield index, len(prompt), answer_stop(full, len(prompt), through, message, index)


def answer_stop(full: str, start: int, through: str, message: dict[str, Any], index: int) -> int:
    """Find where an answer and its closing token stop.

    Args:
        full: the whole conversation.
        start: where the answer starts in it.
        through: the conversation as rendered up to this answer.
        message: the answer.
        index: its place among the messages.

    Raises:
        RowError: when it cannot be told.
    """
    if len(through) >= start and full.startswith(through):
        return len(through)
    # Some templates write the last answer in another way than earlier ones (with an empty
    # thought, say); then an earlier one is its content and whatever closes it.
    content = (message.get("content") or "").strip()
    closing = through[through.rfind(content) + len(content) :]
    if not content or not full.startswith(content + closing, start):
        raise border_error(index)
    return start + len(content + closing)


def border_error(index: int) -> RowError:
    """Say that prompt and answer cannot be told apart."""
    return RowError(
        f"messages[{index}]: the chat template writes the messages before this answer in another "
        "way once it is there, so that prompt and answer cannot be told apart"
    )


def render(
    tokenizer: PreTrainedTokenizerFast,
    conversation: Conversation,
    count: int | None = None,
    ask: bool = False,
) -> str:
    """Apply the chat template to the first messages.

    Args:
        tokenizer: has the template.
        conversation: the messages and tools.
        count: how many messages; None: all.
        ask: add what asks the model for its answer.

    Raises:
        RowError: when there is no template, or it fails.
    """
    tools = conversation.tools
    if not tokenizer.chat_template:
        raise RowError(
            "the row has messages, and the tokenizer of this model no chat template; "
            "write it as prompt and completion, or choose a chat model"
        )
    try:
        template = tokenizer.get_chat_template(tools=tools)
        if re.search(r"\bstrftime_now\b", template):
            template = STANDING_DATE + template
        text = tokenizer.apply_chat_template(
            conversation.messages[:count],
            tools=[*tools] if tools else None,
            chat_template=template,
            add_generation_prompt=ask,
            tokenize=False,
        )
    except Exception as error:  # a template is a program of somebody else
        raise RowError(f"the chat template refuses the messages: {error}") from error
    assert isinstance(text, str)
    return text
