"""From conversations to text by the template of the model, with the borders of every answer."""

from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Conversation
from pipeline.data.tokenize.template import called_names, render, render_whole


class Span(NamedTuple):
    """A stretch of text that is tokenized by itself, so that no token crosses its borders.

    Attributes:
        text: what to tokenize.
        weight: how much its tokens count in what is learnt; 0: they are not learnt.
        is_opening: whether the tokenizer may add its beginning-of-sequence token.
    """

    text: str
    weight: float
    is_opening: bool = False


def conversation_spans(
    tokenizer: PreTrainedTokenizerFast, conversation: Conversation, train_on: str
) -> list[Span]:
    """Cut the rendered conversation into prompts and answers, one after the other.

    A prompt is the text that the template writes of the messages before an answer when it is asked
    for one: character by character what the model is given when it is used. An answer that is not
    learnt is part of the next prompt.

    Args:
        tokenizer: has the template.
        conversation: the messages and tools.
        train_on: which answers are learnt: all, or the last.

    Raises:
        RowError: when the tokenizer has no template, the template fails or leaves out a part, or
            a prompt is not the beginning of the whole text.
    """
    learnt = learnt_answers(conversation, train_on)
    conversation, full = render_whole(tokenizer, conversation)
    spans, end = list[Span](), 0
    for index, weight in learnt:
        start, stop = borders(tokenizer, conversation, full, index)
        if start < end:
            raise border_error(conversation, index)
        check_calls(conversation.messages[index], full[start:stop], index)
        spans += [Span(full[end:start], 0.0), Span(full[start:stop], weight)]
        end = stop
    if not full or (learnt and not any(span.text for span in spans if span.weight)):
        raise RowError("the chat template writes nothing of the answers")
    return [span for span in [*spans, Span(full[end:], 0.0)] if span.text]


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


def borders(
    tokenizer: PreTrainedTokenizerFast, conversation: Conversation, full: str, index: int
) -> tuple[int, int]:
    """Find where in the full text an answer starts and stops."""
    if index == 0:
        raise RowError("messages[0] is from 'assistant'; there is nothing that it answers")
    prompt = render(tokenizer, conversation, index, ask=True)
    if not full.startswith(prompt):
        raise border_error(conversation, index)
    through = render(tokenizer, conversation, index + 1)
    stop = answer_stop(full, len(prompt), through, conversation.messages[index])
    if stop is None:
        raise border_error(conversation, index)
    return len(prompt), stop


def answer_stop(full: str, start: int, through: str, message: dict[str, Any]) -> int | None:
    """Find the position after an answer and its closing token; None where it is not certain.

    Args:
        full: the rendered conversation.
        start: position at which the answer starts in it.
        through: the conversation rendered up to this answer.
        message: the answer.
    """
    if len(through) >= start and full.startswith(through):
        return len(through)
    # Some templates write the last answer differently from earlier ones, for example with an empty
    # thought before it. `through` ends with this answer as the last one. The longest end of it that
    # continues `full` at `start` is the answer, provided that it has all text of the message.
    content = (message.get("content") or "").strip()
    texts = [text for text in (content, *called_names(message)) if text]
    latest = min(map(through.rfind, texts), default=-1)
    for cut in range(start, latest + 1):
        if full.startswith(through[cut], start) and full.startswith(through[cut:], start):
            return start + len(through) - cut
    return None


def check_calls(message: dict[str, Any], text: str, index: int) -> None:
    """Refuse an answer whose calls the template leaves out.

    Raises:
        RowError: with the first one.
    """
    for name in called_names(message):
        if name not in text:
            raise RowError(
                f"messages[{index}]: the chat template leaves out the call of {name!r}; "
                "choose a model that takes tools"
            )


def border_error(conversation: Conversation, index: int) -> RowError:
    """Return the error of an answer whose border to the prompt cannot be found."""
    is_last = index == len(conversation.messages) - 1
    return RowError(
        f"messages[{index}]: the chat template writes the messages before this answer in another "
        "way once it is there, so that prompt and answer cannot be told apart"
        + ("" if is_last else "; data.train_on=last learns the last answer alone")
    )
