"""What a template leaves out of the messages that it is given; such rows are refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Conversation
from pipeline.data.tokenize.template import (
    REASONING_NAMES,
    ChatTemplate,
    functions_of,
    read_arguments,
    render,
)

THOUGHT_START, THOUGHT_END = "<think>", "</think>"


def check_answer(message: dict[str, Any], text: str, index: int) -> None:
    """Refuse an answer of which the template leaves out a part.

    Args:
        message: the answer, as the row has it.
        text: what the template writes for it.
        index: of the message.

    Raises:
        RowError: with all such parts.
    """
    if missing := missing_parts([*parts_of(message)], text):
        raise RowError(
            f"messages[{index}]: the chat template leaves out {', '.join(dict.fromkeys(missing))}; "
            "take it out of the row, or choose a model whose template writes it"
        )


def missing_parts(parts: list[tuple[str, str]], text: str) -> list[str]:
    """List the parts that are not in a text, by their names.

    A part that was found is taken out of the text, so that two parts are not found in one place.
    Long ones come first, because a short one may be inside a long one.
    """
    missing = list[str]()
    for name, part in sorted(parts, key=lambda each: len(each[1]), reverse=True):
        form = next((form for form in forms_of(part) if form in text), None)
        if form is None:
            missing.append(name)
        else:
            text = text.replace(form, "\0", 1)
    return missing


def forms_of(part: str) -> Iterator[str]:
    """Yield a text as it may be written: as it is, or escaped as in JSON or in Python."""
    yield part
    yield json.dumps(part, ensure_ascii=False)[1:-1]
    yield json.dumps(part)[1:-1]
    yield repr(part)[1:-1]
    yield {"true": "True", "false": "False"}.get(part, part)


def parts_of(message: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of all that an answer says."""
    for function in functions_of(message):
        name = str(function.get("name", ""))
        yield f"the call of {name!r}", name
        arguments = read_arguments(function.get("arguments"))
        for key, value in arguments.items() if isinstance(arguments, dict) else [("", arguments)]:
            for leaf in (key, *leaves(value)):
                yield f"argument {key!r} of the call of {name!r}", leaf
    thought, content = thought_and_content(message)
    yield "its reasoning", thought
    yield "its content", content


def thought_and_content(message: dict[str, Any]) -> tuple[str, str]:
    """Return the thought of an answer and the rest, without white space at their ends.

    Templates take a thought out of the content where it has no key of its own.
    """
    content = (message.get("content") or "").strip()
    for name in REASONING_NAMES:
        if message.get(name):
            return str(message[name]).strip(), content
    thought, end, rest = content.partition(THOUGHT_END)
    if not end:
        return "", content
    return thought.removeprefix(THOUGHT_START).strip(), rest.strip()


def leaves(value: object) -> Iterator[str]:
    """Yield the keys and values in the arguments of a call, as a template may write them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    elif isinstance(value, str):
        yield value
    elif value is not None:
        yield json.dumps(value)


def check_context(
    template: ChatTemplate, conversation: Conversation, prompt: str, index: int
) -> None:
    """Refuse a row where the template leaves out something that stands before an answer.

    Args:
        template: of the model.
        conversation: the messages and tools.
        prompt: what the template writes when it is asked for the answer.
        index: of the answer.

    Raises:
        RowError: with the first message that is left out, or the tools.
    """
    for before, message in enumerate(conversation.messages[:index]):
        content, role = (message.get("content") or "").strip(), message["role"]
        if role != "assistant" and not any(form in prompt for form in forms_of(content)):
            is_system = role in ("system", "developer")
            raise RowError(
                f"messages[{before}] ({role}): the chat template leaves it out; "
                + ("write it into the first message of the user" if is_system else "choose a model")
                + ("" if is_system else " whose template writes it")
            )
    if conversation.tools:
        without = render(template, replace(conversation, tools=None), index, ask=True)
        if without == prompt:
            raise RowError(
                "tools: the chat template leaves them out; choose a model that takes tools"
            )
