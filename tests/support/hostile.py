"""Files that somebody has spoilt, by chance or to do harm, and what reading one may cost."""

import contextlib
import copy
import json
import resource
import sys
import time

from hypothesis import strategies as st

from pipeline.data.rows.fields import RowError
from pipeline.errors import PipelineError

DEEP = "deep"
"""Stands for lists inside each other, which `json.dumps` could not write."""
VALUES = [
    *(None, True, False, -1, 0, 1, 3, 2**31, 2**63, 2**64, 10**30, 0.5, 1e308, float("nan")),
    *("", "x", "\x1b[2J", "\ud800", "a\nb", "\0", "../x", "/etc/hosts", "9" * 5000, DEEP),
    *([], {}, [[]], [None], ["x"], {"x": "y"}, {"": {}}, [0] * 5000),
]
MOST_BYTES = 500 * 10**6
MOST_SECONDS = 6.0
"""Three times what is promised: in tests the types of each call are checked."""


@st.composite
def spoilt(draw, value):
    """Draw a JSON text like that of a value, of which some parts are something else, or gone."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        parent, key = draw(part_of(value))
        if draw(st.integers(0, 4)):
            parent[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        else:
            del parent[key]
        if not value:
            break
    return written(value)


@st.composite
def part_of(draw, parent):
    """Draw a part of a value, as likely near its top as deep inside: what holds it, and its key."""
    while True:
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        key = draw(st.sampled_from(keys))
        inner = parent[key]
        if not (inner and isinstance(inner, dict | list)) or draw(st.booleans()):
            return parent, key
        parent = inner


def written(value):
    """Write a value as JSON, and as bytes that may be no UTF-8."""
    text = json.dumps(value).replace(f'"{DEEP}"', "[" * 20000 + "]" * 20000)
    return text.replace('"\\ud800"', '"\\ud800"').encode()


@st.composite
def damaged(draw, content):
    """Draw bytes of which some are others, or which end early."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content) - 1))
        content[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x5B, 0x7B]))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


@contextlib.contextmanager
def bounded():
    """Let nothing but our own errors out of a block, which may take so much time and memory."""
    before, began = peak_bytes(), time.process_time()
    with contextlib.suppress(PipelineError, RowError):
        yield
    assert time.process_time() - began < MOST_SECONDS
    assert peak_bytes() - before < MOST_BYTES


def peak_bytes():
    """Return the most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
