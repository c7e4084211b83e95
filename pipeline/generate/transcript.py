"""Prompts and answers below each other, as a person reads them."""

import textwrap
from collections.abc import Mapping, Sequence

from pipeline.errors import printable

WIDTH = 100
"""Letters of a line."""
SHOWN_LETTERS = 400
PROMPT = "prompt"


def transcript(samples: Sequence[Mapping[str, str]]) -> str:
    """Write samples below each other, shortened, with controls escaped.

    Args:
        samples: texts by what they are; of a `prompt` the end is shown, which is the question, and
            of other texts the beginning.
    """
    return "\n\n".join("\n".join(entry(*item) for item in sample.items()) for sample in samples)


def entry(name: str, text: str) -> str:
    """Write one text with its name in front, in lines of one width."""
    label = f"  {name:<11}"
    shown = printable(shortened(name, text)) or "(nothing)"
    return textwrap.fill(
        shown,
        WIDTH,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_on_hyphens=False,
    )


def shortened(name: str, text: str) -> str:
    """Return the part of a text that is shown."""
    if len(text) <= SHOWN_LETTERS:
        return text
    return f"… {text[-SHOWN_LETTERS:]}" if name == PROMPT else f"{text[:SHOWN_LETTERS]} …"
