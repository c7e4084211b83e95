"""The chat template of a model, applied unchanged to messages in the form that it takes."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

from transformers.utils.chat_template_utils import render_jinja_template

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Conversation

STANDING_DATE = """{%- macro strftime_now(format) -%}
{{ format | replace("%d", "26") | replace("%B", "July") | replace("%b", "Jul") | replace("%m", "07")
 | replace("%Y", "2024") | replace("%y", "24") | replace("%A", "Friday") | replace("%a", "Fri")
 | replace("%H", "12") | replace("%M", "00") | replace("%S", "00") }}
{%- endmacro +%}"""
"""Some templates write today's date into the system prompt, and the same rows must give the same
tokens on any day. This is the day that Llama 3's template uses where it cannot know the date."""
REASONING_NAMES = ("reasoning_content", "reasoning", "thinking")
"""Under which templates look for the thought before an answer."""


MAX_REASON = 300
"""Letters of what a template says when it fails; it can say anything."""


class ChatTemplate(NamedTuple):
    """A chat template and what else decides what it writes; plain values, to be sent to a process.

    Attributes:
        text: the template for rows without tools; None where there is none.
        text_with_tools: the template for rows with tools, most often the same one.
        variables: what it is given beside messages and tools, such as special tokens.
        control_tokens: every control token of the tokenizer.
        added_tokens: every token of the tokenizer that is found in a text before all else.
    """

    text: str | None
    text_with_tools: str | None
    variables: dict[str, Any]
    control_tokens: tuple[str, ...] = ()
    added_tokens: tuple[str, ...] = ()


def render(
    template: ChatTemplate,
    conversation: Conversation,
    count: int | None = None,
    ask: bool = False,
) -> str:
    """Apply the chat template to the first messages, as transformers does.

    A template is a foreign program: only `template_worker` calls this, within limits.

    Args:
        template: of the model.
        conversation: the messages and tools.
        count: how many messages; None: all.
        ask: whether to add the text that asks the model for its answer. The result is then the
            prompt that generation begins with.

    Raises:
        RowError: when there is no template, or it fails.
        MemoryError: when it takes more than it may have.
    """
    tools: Any = conversation.tools or None
    text = template.text_with_tools if tools else template.text
    if not text:
        raise RowError(
            "the row has messages, and the tokenizer of this model no chat template; "
            "write it as prompt and completion, or choose a chat model"
        )
    if re.search(r"\bstrftime_now\b", text):
        text = STANDING_DATE + text
    messages = [without_nulls(message) for message in conversation.messages[:count]]
    given = {**template.variables, "add_generation_prompt": ask}
    try:
        return render_jinja_template([messages], tools, chat_template=text, **given)[0][0]
    except MemoryError:
        raise
    except Exception as error:  # of any type
        reason = str(error)[:MAX_REASON] or type(error).__name__
        raise RowError(f"the chat template refuses the messages: {reason}") from error


def without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without keys whose value is null, which templates take for values."""
    return {key: value for key, value in message.items() if value is not None}


def as_template_takes(template: ChatTemplate, conversation: Conversation) -> Conversation:
    """Return the conversation in the form that the template takes.

    A thought gets all names under which templates look for one. The arguments of a call may be an
    object, or a string of JSON as in the OpenAI format, and the content beside it may be missing or
    empty. Where the template fails with one form, or would write the string in quotes, it gets
    another.

    Raises:
        RowError: when the template fails with all forms.
    """
    messages = [with_names_of_reasoning(message) for message in conversation.messages]
    conversation = replace(conversation, messages=messages)
    if not any(functions_of(message) for message in messages):
        return conversation
    errors, usable = list[RowError](), list[Conversation]()
    for empty, form in product((None, ""), (as_given, read_arguments, written_arguments)):
        candidate = replace(conversation, messages=in_form(messages, empty, form))
        try:
            text = render(template, candidate)
        except RowError as error:
            errors.append(error)
            continue
        if not any(json.dumps(each, ensure_ascii=False) in text for each in strings(candidate)):
            return candidate
        usable.append(candidate)
    if not usable:
        raise errors[0]
    return usable[0]


def with_names_of_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose thought has every name.

    Raises:
        RowError: when there are two thoughts that differ.
    """
    thoughts = {str(message[name]) for name in REASONING_NAMES if message.get(name)}
    if len(thoughts) > 1:
        raise RowError(
            f"a message has {', '.join(name for name in REASONING_NAMES if message.get(name))}, "
            "which differ; keep one thought"
        )
    return {**message, **dict.fromkeys(REASONING_NAMES, *thoughts)} if thoughts else message


def functions_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    """List name and arguments of each call, which may be in `function` or in the call itself."""
    calls = message.get("tool_calls") or []
    functions = (call.get("function", call) for call in calls if isinstance(call, dict))
    return [function for function in functions if isinstance(function, dict)]


def strings(conversation: Conversation) -> Iterator[str]:
    """Yield the arguments of calls that are strings."""
    for message in conversation.messages:
        for function in functions_of(message):
            if isinstance(function.get("arguments"), str):
                yield function["arguments"]


def in_form(
    messages: list[dict[str, Any]], empty: str | None, form: Callable[[object], object]
) -> list[dict[str, Any]]:
    """Return messages with calls in another form.

    Args:
        messages: of a conversation.
        empty: the content beside a call that has none.
        form: makes the arguments of a call.
    """
    copies = json.loads(json.dumps(messages))
    for message in copies:
        functions = functions_of(message)
        if functions and message.get("content") is None:
            message["content"] = empty
        for function in functions:
            if "arguments" in function:
                function["arguments"] = form(function["arguments"])
    return copies


def as_given(arguments: object) -> object:
    """Return arguments unchanged."""
    return arguments


def read_arguments(arguments: object) -> object:
    """Return the JSON object in a string; return anything else unchanged."""
    try:
        read = json.loads(arguments) if isinstance(arguments, str) else None
    except ValueError:
        return arguments
    return read if isinstance(read, dict) else arguments


def written_arguments(arguments: object) -> object:
    """Return an object as a string of JSON; return anything else unchanged."""
    is_object = isinstance(arguments, dict)
    return json.dumps(arguments, ensure_ascii=False) if is_object else arguments
