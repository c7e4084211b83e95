"""How a template closes an answer: found by what two answers that are not alike both end with."""

from itertools import takewhile
from typing import Any, NamedTuple

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Conversation
from pipeline.data.tokenize.template import ChatTemplate, render

UNLIKE = ("one", "two")
"""Answers without a common end, so that what rendered conversations end with is the template's."""


class Closing(NamedTuple):
    """What a template writes after an answer.

    Attributes:
        text: all of it; it may go on after the closing token, for example with a new line.
        token: the closing token, which is its first control token; empty where it has none.
        control_tokens: every control token of the tokenizer.
    """

    text: str
    token: str
    control_tokens: tuple[str, ...]

    def cut(self, answer: str, content: str) -> tuple[str, bool]:
        """Cut an answer after the token that closes it, which is the last token to be learnt.

        An answer may also end with another control token: some templates close a call of a tool
        in this way. One that is typed in the content closes nothing.

        Args:
            answer: what the template writes after the prompt.
            content: what the message has.

        Returns:
            The answer, and whether a token closes it.
        """
        if self.token and answer.endswith(self.text):
            end = len(answer) - len(self.text) + self.text.index(self.token) + len(self.token)
            return answer[:end], True
        ends = answer.rstrip().endswith(self.control_tokens)
        if ends and not content.rstrip().endswith(self.control_tokens):
            return answer.rstrip(), True
        return answer, False


def closing_of(template: ChatTemplate) -> Closing:
    """Find how a template closes an answer."""
    text, control = common_end(template), template.control_tokens
    others = tuple(token for token in template.added_tokens if token.strip())
    return Closing(text, first_in(text, control) or first_in(text, others), control)


def common_end(template: ChatTemplate) -> str:
    """Return what the template writes after any answer; nothing where it refuses to be asked."""
    question: list[dict[str, Any]] = [{"role": "user", "content": "zero"}]
    for before in (question, [{"role": "system", "content": "Count."}, *question]):
        try:
            texts = [
                render(template, Conversation([*before, {"role": "assistant", "content": answer}]))
                for answer in UNLIKE
            ]
        except RowError:
            continue
        return shared_end(*texts)
    return ""


def shared_end(one: str, two: str) -> str:
    """Return the longest end that two texts share."""
    pairs = zip(reversed(one), reversed(two), strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return one[len(one) - same :]


def first_in(text: str, tokens: tuple[str, ...]) -> str:
    """Return the token that starts first in a text, the longest of several; empty without one."""
    found = [(text.index(token), -len(token), token) for token in tokens if token in text]
    return min(found)[2] if found else ""
