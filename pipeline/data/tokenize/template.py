"""The chat template of a model, applied unchanged; rows of which it drops a part are refused."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerFast

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Conversation

STANDING_DATE = """{%- macro strftime_now(format) -%}
{{ format | replace("%d", "26") | replace("%B", "July") | replace("%b", "Jul") | replace("%m", "07")
 | replace("%Y", "2024") | replace("%y", "24") | replace("%A", "Friday") | replace("%a", "Fri")
 | replace("%H", "12") | replace("%M", "00") | replace("%S", "00") }}
{%- endmacro +%}"""
"""Some templates write today's date into the system prompt, and the same rows must give the same
tokens on any day. This is the day that Llama 3's template uses where it cannot know the date."""


def render_whole(
    tokenizer: PreTrainedTokenizerFast, conversation: Conversation
) -> tuple[Conversation, str]:
    """Apply the chat template to all messages.

    The OpenAI format has the arguments of a call as a string of JSON. Where the template would
    write that string in quotes, it gets the object instead.

    Returns:
        The conversation that was given to the template, and the text.

    Raises:
        RowError: when the template fails, or leaves out a system prompt or the tools.
    """
    full = render(tokenizer, conversation)
    if any(
        json.dumps(text, ensure_ascii=False) in full for text in written_arguments(conversation)
    ):
        conversation = with_read_arguments(conversation)
        full = render(tokenizer, conversation)
    for index, message in enumerate(conversation.messages):
        is_system = message["role"] in ("system", "developer")
        if is_system and (message["content"] or "").strip() not in full:
            raise RowError(
                f"messages[{index}] ({message['role']}): the chat template leaves it out; "
                "write it into the first message of the user"
            )
    if conversation.tools and render(tokenizer, replace(conversation, tools=None)) == full:
        raise RowError("tools: the chat template leaves them out; choose a model that takes tools")
    return conversation, full


def called_names(message: dict[str, Any]) -> list[str]:
    """List the functions that a message calls."""
    return [function["name"] for function in functions_of(message) if "name" in function]


def functions_of(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield name and arguments of each call, which may be in `function` or in the call itself."""
    for call in message.get("tool_calls") or []:
        function = call.get("function", call) if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield function


def written_arguments(conversation: Conversation) -> Iterator[str]:
    """Yield the arguments of calls that are strings."""
    for message in conversation.messages:
        for function in functions_of(message):
            if isinstance(function.get("arguments"), str):
                yield function["arguments"]


def with_read_arguments(conversation: Conversation) -> Conversation:
    """Replace arguments that are strings of JSON by their objects."""
    messages = json.loads(json.dumps(conversation.messages))
    for message in messages:
        for function in functions_of(message):
            function["arguments"] = read_arguments(function.get("arguments"))
    return replace(conversation, messages=messages)


def read_arguments(arguments: object) -> object:
    """Return the JSON object in a string; return anything else unchanged."""
    try:
        read = json.loads(arguments) if isinstance(arguments, str) else None
    except ValueError:
        return arguments
    return read if isinstance(read, dict) else arguments


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
        ask: whether to add the text that asks the model for its answer.

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
    except Exception as error:  # a template is a foreign program
        raise RowError(f"the chat template refuses the messages: {error}") from error
    assert isinstance(text, str)
    return text
