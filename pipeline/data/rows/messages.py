"""The messages and tools of a conversation, checked one by one."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.data.rows.fields import (
    MAX_WEIGHT,
    RowError,
    check_characters,
    checked_number,
    kind_of,
    strings_in,
)

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_MESSAGES = 1000
"""A template writes all messages before each answer, so the time grows with their square."""
MAY_BE_EMPTY = ("system", "developer", "tool")


def checked_messages(messages: object) -> tuple[list[dict[str, Any]], int]:
    """Return a conversation that a chat template can take and that ends with an answer.

    Messages after the last answer have nothing to learn and are left out. So are a turn without
    content, as some tables have them, and those after it, which may refer to it.

    The returned messages lack keys whose value is null, except `content`: templates test whether a
    message has the key `tool_calls`, and would take null for calls.

    Returns:
        The messages, and how many were left out.

    Raises:
        RowError: with the first message that is wrong.
    """
    if not isinstance(messages, list):
        raise RowError(f"messages is {kind_of(messages)}, not a list")
    if not messages:
        raise RowError("messages is empty")
    if len(messages) > MAX_MESSAGES:
        raise RowError(
            f"{len(messages)} messages; a row may have {MAX_MESSAGES}: write several rows"
        )
    kept = list[dict[str, Any]]()
    for index, message in enumerate(messages):
        if is_nothing(message):
            if message and message.get("role") in ("system", "developer"):
                continue
            break
        kept.append(checked_message(f"messages[{index}]", message))
    while kept and kept[-1]["role"] != "assistant":
        kept.pop()
    if not kept:
        empty = next((index for index, message in enumerate(messages) if is_nothing(message)), None)
        before = "" if empty is None else f" before messages[{empty}], which is empty"
        raise RowError(f"there is no answer of the assistant to learn from{before}")
    return kept, len(messages) - len(kept)


def is_nothing(message: object) -> bool:
    """Whether a message is null, or has a role and nothing else."""
    filled = {k for k, v in message.items() if v is not None} if isinstance(message, dict) else ()
    return message is None or (isinstance(message, dict) and {*filled} <= {"role", "weight"})


def checked_message(name: str, message: object) -> dict[str, Any]:
    """Return a message without nulls, and with its content as one text.

    Raises:
        RowError: when its role is unknown, or it lacks what its role needs.
    """
    if not isinstance(message, dict):
        raise RowError(f"{name} is {kind_of(message)}, not an object")
    role, calls = message.get("role"), message.get("tool_calls")
    if role not in ROLES:
        raise RowError(f"{name}: unknown role {role!r}; it must be one of {', '.join(ROLES)}")
    check_weight(name, message)
    for text in strings_in(message):
        check_characters(name, text)
    if calls is not None:
        check_calls(f"{name}: tool_calls", calls)
    content = checked_content(f"{name} ({role})", message.get("content"))
    if content is None and not calls:
        raise RowError(f"{name} ({role}) has no content")
    if not (content or "").strip() and role not in MAY_BE_EMPTY and not calls:
        raise RowError(f"{name} ({role}): content is empty")
    present = {key: value for key, value in message.items() if value is not None}
    return {**present, "content": content} if "content" in message else present


def checked_content(name: str, content: object) -> str | None:
    """Return content as one text; it may be a list of parts, as in the OpenAI format.

    Raises:
        RowError: when it is something else, or a part is no text.
    """
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError(f"{name}: content is {kind_of(content)}, not a string")
    for index, part in enumerate(content):
        is_text = isinstance(part, dict) and part.get("type") == "text"
        if not is_text or not isinstance(part.get("text"), str):
            raise RowError(f"{name}: content[{index}] is no text; only text can be learnt here")
    return "".join(part["text"] for part in content)


def check_calls(name: str, calls: object) -> None:
    """Refuse calls that are no list of objects, each with the name of a function.

    Raises:
        RowError: with the first one.
    """
    if not isinstance(calls, list):
        raise RowError(f"{name} is {kind_of(calls)}, not a list")
    for index, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError(f"{name}[{index}] names no function")


def check_weight(name: str, message: Mapping[str, Any]) -> None:
    """Refuse a weight that is no number from 0 to 1, or is not on an answer of the assistant.

    Raises:
        RowError: with what is wrong.
    """
    weight = message.get("weight")
    if weight is None:
        return
    if message["role"] != "assistant":
        raise RowError(
            f"{name} ({message['role']}) has a weight; only answers of the assistant are learnt"
        )
    checked_number(f"{name}: weight", weight, MAX_WEIGHT)


def checked_tools(tools: object) -> list[dict[str, Any]] | None:
    """Return tools that are a list of objects, or None; they may be written as JSON in a string.

    Raises:
        RowError: when they are something else.
    """
    if isinstance(tools, str):
        tools = read_json(tools)
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("tools is not a list of objects")
    for text in strings_in(tools):
        check_characters("tools", text)
    return tools


def read_json(text: str) -> object:
    """Read JSON; return the text itself where it is none, and None where it is blank."""
    try:
        return json.loads(text) if text.strip() else None
    except (ValueError, RecursionError):
        return text
