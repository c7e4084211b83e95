"""Chat templates of real styles, small tokenizers that have them, and conversations."""

import numpy as np
from hypothesis import strategies as st

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import parse_record
from pipeline.data.tokenize.encode import Encoder
from tests.support.chat_templates import (
    CHATML,
    GEMMA,
    LLAMA,
    MISTRAL,
    QWEN,
    THINKING,
)

STYLES = {
    "chatml": CHATML,
    "llama": LLAMA,
    "qwen": QWEN,
    "thinking": THINKING,
    "mistral": MISTRAL,
    "gemma": GEMMA,
}


CLOSING = {
    "chatml": "<|im_end|>",
    "llama": "<|eot_id|>",
    "qwen": "<|im_end|>",
    "thinking": "<|im_end|>",
    "mistral": "<eos>",
    "gemma": "<end_of_turn>",
}


OPENING = {"mistral": " "}


THOUGHT = "<think>\n\n</think>\n\n"


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


say = st.text("ab cd.", min_size=1).map(str.strip).filter(bool)


def talk(*contents, system=None):
    """Make messages from user and assistant in turn."""
    roles = ["user", "assistant"] * len(contents)
    messages = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
    ]
    return [{"role": "system", "content": system}, *messages] if system else messages


def call(arguments, **more):
    function = {"name": "look", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}], **more}


def agent(arguments):
    """A user asks, the model calls a tool, reads its result, and answers."""
    user, answer = talk("Where is it?", "In the hat.")
    result = {"role": "tool", "name": "look", "content": 'it "is" there'}
    return [user, call(arguments, content=None), result, answer]


def documents(tokenizer, row, **choices):
    """Tokenize one row, or raise what is wrong with it."""
    (result,) = Encoder(tokenizer, **choices).encode([parse_record(row)])
    if isinstance(result, RowError):
        raise result
    return result


def encode(tokenizer, messages, train_on="all", **row):
    """Tokenize a conversation that is one document."""
    (document,) = documents(tokenizer, {"messages": messages, **row}, train_on=train_on)
    return document


def separate_texts(tokenizer, messages, **row):
    """Read what each document of a conversation learns."""
    found = documents(tokenizer, {"messages": messages, **row})
    return [text for document in found for text in texts(tokenizer, document)]


def stretches(tokenizer, encoded):
    """Read what is learnt: text and weight of each stretch."""
    ids, mask, weights = encoded
    weights = np.where(mask, 1 if weights is None else weights, 0)
    borders = np.flatnonzero(np.diff(weights)) + 1
    parts = zip(np.split(ids, borders), np.split(weights, borders), strict=True)
    return [(tokenizer.decode(part), float(weight[0])) for part, weight in parts if weight[0]]


def texts(tokenizer, encoded):
    return [text for text, _ in stretches(tokenizer, encoded)]


def answer_in(style, text):
    thought = THOUGHT if style == "thinking" else ""
    return f"{OPENING.get(style, '')}{thought}{text}{CLOSING[style]}"
