"""The messages and tools of a conversation, checked one by one."""

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
MAY_BE_EMPTY = ("system", "developer", "tool")


def checked_messages(messages: object) -> list[dict[str, Any]]:
    """Return a conversation that a chat template can take and that ends with an answer.

    The returned messages lack keys whose value is null, except `content`: templates test whether a
    message has the key `tool_calls`, and would take null for calls.

    Raises:
        RowError: with the first message that is wrong.
    """
    if not isinstance(messages, list):
        raise RowError(f"messages is {kind_of(messages)}, not a list")
    if not messages:
        raise RowError("messages is empty")
    for index, message in enumerate(messages):
        check_message(f"messages[{index}]", message)
    messages = [without_nulls(message) for message in messages]
    if messages[-1]["role"] != "assistant":
        raise RowError(
            f"the last message is from {messages[-1]['role']!r}; "
            "training needs an answer of the assistant to learn from"
        )
    return messages


def check_message(name: str, message: object) -> None:
    """Refuse a message with an unknown role, or without content where its role needs some.

    Raises:
        RowError: with what is wrong.
    """
    if not isinstance(message, dict):
        raise RowError(f"{name} is {kind_of(message)}, not an object")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise RowError(f"{name}: unknown role {role!r}; it must be one of {', '.join(ROLES)}")
    if content is None and not message.get("tool_calls"):
        raise RowError(f"{name} ({role}) has no content")
    if content is not None and not isinstance(content, str):
        raise RowError(f"{name}: content is {kind_of(content)}, not a string")
    if not (content or "").strip() and role not in MAY_BE_EMPTY and not message.get("tool_calls"):
        raise RowError(f"{name} ({role}): content is empty")
    for text in strings_in(message):
        check_characters(name, text)
    check_weight(name, message)


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


def without_nulls(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message without the keys whose value is null, except `content`."""
    return {key: value for key, value in message.items() if value is not None or key == "content"}


def checked_tools(tools: object) -> list[dict[str, Any]] | None:
    """Return tools that are a list of objects, or None.

    Raises:
        RowError: when they are something else.
    """
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("tools is not a list of objects")
    for text in strings_in(tools):
        check_characters("tools", text)
    return tools
