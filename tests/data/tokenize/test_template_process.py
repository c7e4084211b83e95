"""Chat templates run in a process of their own, and no template takes more than its share."""

import os
import signal
import time

import pytest

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Conversation, parse_record
from pipeline.data.tokenize import template_process
from pipeline.data.tokenize.encode import Encoder
from pipeline.data.tokenize.template_process import PROCESS, AppliedTemplate, TemplateProcess
from pipeline.data.tokenize.template_worker import request_of
from pipeline.data.tokenize.tokenizer import chat_template_of
from pipeline.errors import ModelError
from pipeline.machine import footprint_bytes
from tests.support.chat_templates import CHATML
from tests.support.conversations import STYLES, talk

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLES = (
    "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s * 2 %}{% endfor %}"
)
NESTED = "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}"
MEMORY = "the chat template takes more than 400 MB of memory"
HARM = {
    "loops": (LOOPS, "the chat template takes longer than 2 s, and 0.02 s more for each message"),
    "a product": ("{{ 'a' * (messages | length * 10**9) }}", MEMORY),
    "a constant": ("{{ 'a' * 1000000000 }}", MEMORY),
    "doubling": (DOUBLES, MEMORY),
    "padding": ("{{ '%0999999999d' % (messages | length) }}", MEMORY),
    "a list": ("{{ (range(99999) | list) * 9999 }}", MEMORY),
    "itself": (NESTED, "the chat template refuses the messages: .*recursion"),
    "much": (
        "{{ 'a' * 9000000 }}",
        "have 90000.. letters or more, and the row .*: write several rows",
    ),
    "a long reason": ("{{ raise_exception('a' * 9000) }}", "refuses the messages: a{300}$"),
    "half a pair": ("{{ '\\ud800' }}", "writes characters that UTF-8 does not have"),
    "no attribute": ("{{ ''.__class__.__mro__ }}", "refuses the messages: access to attribute"),
}


def harming(code):
    """Make a template that does something that harms, but only with rows that say so."""
    return "{% if messages[0].content == 'BOOM' %}" + code + "{% endif %}" + CHATML


def record(*contents):
    return parse_record({"messages": talk(*contents)})


@pytest.fixture
def tokenizer(tokenizers):
    yield tokenizers["chatml"]
    tokenizers["chatml"].chat_template = CHATML


@pytest.mark.parametrize("name", HARM)
def test_a_row_with_which_a_template_does_harm_is_a_bad_row(tokenizer, name):
    code, message = HARM[name]
    tokenizer.chat_template = harming(code)
    encoder = Encoder(tokenizer)
    began = time.monotonic()
    before, bad, after = encoder.encode([record("a", "b"), record("BOOM", "b"), record("c", "d")])
    assert time.monotonic() - began < 20
    with pytest.raises(RowError, match=message):
        raise bad
    for found, text in ((before, "a"), (after, "c")):
        assert tokenizer.decode(found[0].ids).startswith(f"<bos><|im_start|>user\n{text}<|im_end|>")


def test_a_template_that_always_harms_is_named_once(tokenizer):
    tokenizer.chat_template = DOUBLES + CHATML
    with pytest.raises(ModelError, match=rf"model\.source: {MEMORY}, for a .*\n.*another template"):
        Encoder(tokenizer)


def test_after_some_rows_have_ended_the_process_no_other_is_tried(tokenizer, monkeypatch):
    tokenizer.chat_template = harming(LOOPS)
    encoder = Encoder(tokenizer)
    monkeypatch.setattr(template_process, "MAX_ENDS", 1)
    monkeypatch.setattr(template_process, "MOST_BYTES", 0)  # ends it as soon as it takes its time
    one, two = encoder.encode([record("BOOM", "b"), record("a", "b")])
    assert MEMORY in str(one)
    assert str(two) == "not tried, as 1 rows before ended the process of the chat template"


def test_the_process_is_started_once_and_ends_with_its_pipe(tokenizer):
    Encoder(tokenizer).encode([record("a", "b")])
    process = PROCESS.process
    tokenizer.chat_template = STYLES["llama"]
    Encoder(tokenizer).encode([record("a", "b")])
    assert PROCESS.process is process
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    PROCESS.end()
    assert isinstance(Encoder(tokenizer).encode([record("a", "b")])[0], list), "and starts again"


def test_a_process_that_something_else_ends(tokenizer):
    template = AppliedTemplate(chat_template_of(tokenizer), "all")
    template.closing()
    os.kill(PROCESS.process.pid, signal.SIGKILL)
    (found,) = template.turns([Conversation(talk("a", "b"))])
    assert "ended the process that applies it (exit status -9)" in str(found)
    (found,) = template.turns([Conversation(talk("a", "b"))])
    assert [turn.answer for turn in found] == ["b<|im_end|>"]


def test_memory_that_the_system_does_not_bound_is_measured(tokenizer, monkeypatch):
    """As on macOS."""
    process = TemplateProcess()
    template = chat_template_of(tokenizer)
    process.ask(request_of(template, "all", []), 1)
    held = footprint_bytes(process.process.pid)
    assert 10**7 < held < template_process.MOST_BYTES - template_process.LIMIT_BYTES
    monkeypatch.setattr(template_process, "MOST_BYTES", held // 2)
    slow = template._replace(text=harming(LOOPS))
    answers, reason = process.ask(request_of(slow, "all", [Conversation(talk("BOOM", "b"))]), 2)
    assert (len(answers), reason) == (1, MEMORY)
    assert process.process is None
