"""Conversations of every shape, and the templates of current models to try them on."""

from pathlib import Path
from typing import Any

BAR = "\uff5c"
CONTROL = [
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
    *("<|observation|>", "[gMASK]", "<sop>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    *("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
    *(f"<{BAR}{name}{BAR}>" for name in ("User", "Assistant", "end▁of▁sentence")),
    *(f"<{BAR}tool▁{name}▁end{BAR}>" for name in ("calls", "outputs")),
]
"""What these templates write as control tokens."""
ADDED = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
"""Added tokens that are no control tokens, as in the tokenizers of these models."""
TOOLS = [
    {
        "type": "function",
        "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
    }
]


def user(content):
    return {"role": "user", "content": content}


def answer(content, **more):
    return {"role": "assistant", "content": content, **more}


def calling(arguments, content=None, times=1, **more):
    call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
    return answer(content, tool_calls=[call] * times, **more)


RESULT = {"role": "tool", "name": "look", "content": "RES"}
HAT = {"at": "HAT"}
ROWS: dict[str, dict[str, Any]] = {
    "one turn": {"messages": [user("Q1"), answer("ANS1")]},
    "two turns": {"messages": [user("Q1"), answer("ANS1"), user("Q2"), answer("ANS2")]},
    "white space": {
        "messages": [user(" Q1\n"), answer("\n ANS1 \n"), user("\tQ2"), answer("  ANS2\n\n")]
    },
    "a thought": {"messages": [user("Q1"), answer("ANS1", reasoning_content="HM1")]},
    "a thought by another name": {"messages": [user("Q1"), answer("ANS1", thinking="HM1")]},
    "a thought in the content": {
        "messages": [user("Q1"), answer("<think>\nHM1\n</think>\n\nANS1")]
    },
    "two thoughts": {
        "messages": [
            *(user("Q1"), answer("ANS1", reasoning_content="HM1")),
            *(user("Q2"), answer("ANS2", reasoning_content="HM2")),
        ]
    },
    "a call": {"messages": [user("Q1"), calling(HAT), RESULT, answer("ANS2")], "tools": TOOLS},
    "a call as a string": {
        "messages": [user("Q1"), calling('{"at": "HAT"}'), RESULT, answer("ANS2")],
        "tools": TOOLS,
    },
    "a call without tools": {"messages": [user("Q1"), calling(HAT), RESULT, answer("ANS2")]},
    "words beside a call": {
        "messages": [user("Q1"), calling(HAT, "LETME"), RESULT, answer("ANS2")],
        "tools": TOOLS,
    },
    "two calls": {
        "messages": [user("Q1"), calling(HAT, times=2), RESULT, RESULT, answer("ANS2")],
        "tools": TOOLS,
    },
    "thoughts and a call": {
        "messages": [
            *(user("Q1"), calling(HAT, reasoning_content="HM1"), RESULT),
            answer("ANS2", reasoning_content="HM2"),
        ],
        "tools": TOOLS,
    },
    "a system prompt": {
        "messages": [
            {"role": "system", "content": "SYS"},
            *(user("Q1"), answer("ANS1"), user("Q2"), answer("ANS2")),
        ]
    },
}


def templates(samples: Path) -> dict[str, str]:
    """Read the templates of models, by name."""
    files = sorted((samples / "templates").glob("*.jinja"))
    return {file.stem: file.read_text() for file in files if "_training" not in file.stem}
