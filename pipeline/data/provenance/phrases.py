"""Finds the words and phrases of a table in a text, by one regular expression for all of them."""

import re
from collections.abc import Iterator, Mapping, Sequence

from pipeline.errors import ConfigError, report_problems

REMEDY = (
    "Write words, in which * stands for any end of a word (specimen*), or /a regular expression/."
)
NO_PATTERN = (re.error, RecursionError, OverflowError)
"""What Python raises for a text that is no regular expression, is nested too deep, or counts too
far."""
CAPITALS = re.compile("[A-Z]{2,}")


class Phrases:
    """Finds the phrases of a table as whole words; of phrases that overlap only one is found.

    A phrase without capitals is found in any case, and one with capitals only as it is written:
    `WHO` is an organisation and "who" is not. An acronym next to another word in capitals is taken
    for a word of a headline, and is not found.

    Args:
        name: the key of the table, for messages.
        table: the phrases of each class.

    Raises:
        ConfigError: with every phrase that cannot be used.
    """

    def __init__(self, name: str, table: Mapping[str, Sequence[str]]) -> None:
        entries = [(kind, phrase) for kind, phrases in table.items() for phrase in phrases]
        problems = [
            f"{name}.{kind}: {phrase!r} {problem}"
            for kind, phrase in entries
            if (problem := problem_with(phrase))
        ]
        classes: dict[str, str] = {}
        for kind, phrase in entries:
            if classes.setdefault(phrase, kind) != kind:
                problems.append(f"{name}.{kind}: {phrase!r} is also in {name}.{classes[phrase]}")
        report_problems(ConfigError, "These phrases cannot be used:", problems, REMEDY)
        # Longest first: "laboratory notebook" is one piece, not a notebook in a laboratory.
        entries.sort(key=lambda entry: (beginning(entry[1]), -len(entry[1]), entry[1]))
        self._classes = [kind for kind, _ in entries]
        self._acronyms = [phrase.isupper() and not is_regex(phrase) for _, phrase in entries]
        either = alternatives([phrase for _, phrase in entries])
        self._regex = re.compile(rf"(?<!\w)(?=\S)(?:{either})")

    def find(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield the class of each phrase found, and the words that were found.

        Args:
            text: what to search, with single spaces as its only white space.
        """
        if not self._classes:
            return
        for match in self._regex.finditer(text):
            assert match.lastindex is not None, "every phrase is a group"
            index = match.lastindex - 1
            if not (self._acronyms[index] and in_headline(match)):
                yield self._classes[index], match[0]


def is_regex(phrase: str) -> bool:
    """Whether a phrase is written as a regular expression."""
    return len(phrase) > 2 and phrase[0] == phrase[-1] == "/"


def problem_with(phrase: str) -> str | None:
    """Describe why a phrase cannot be used; None if it can."""
    if is_regex(phrase):
        return problem_with_regex(phrase[1:-1])
    if not re.search(r"\w", phrase):
        return "has no letter and no digit"
    return "has * inside a word or before one" if re.search(r"\*\w|(?<!\w)\*", phrase) else None


def problem_with_regex(pattern: str) -> str | None:
    """Describe why a regular expression cannot be one of several; None if it can."""
    try:
        regex = re.compile(pattern)
        re.compile(f"|(?:{pattern})")  # flags for the whole expression stand only at its start
    except NO_PATTERN as error:
        return f"is no regular expression: {error}"
    if regex.groups:
        return "has a capturing group; write (?:...)"
    return "matches the empty text" if regex.match("") else None


def beginning(phrase: str) -> str:
    """Return the first two letters in lower case; "" for a regular expression or other signs."""
    start = phrase[:2].lower()
    return start if start.isascii() and start.isalpha() and not is_regex(phrase) else ""


def alternatives(phrases: Sequence[str]) -> str:
    """Write phrases, sorted by their beginning, as alternatives of one regular expression.

    Phrases with the same two first letters share them, because Python passes over an alternative
    fastest by its first letter. The empty group after a phrase has the number of the phrase.
    """
    by_letter: dict[str, dict[str, list[str]]] = {}
    for phrase in phrases:
        start = beginning(phrase)
        by_letter.setdefault(start[:1], {}).setdefault(start[1:], []).append(pattern_of(phrase))
    branches = by_letter.pop("", {"": []})[""]
    for first, by_second in by_letter.items():
        inner = "|".join(
            f"{any_case(second)}(?:{'|'.join(by_second[second])})" for second in by_second
        )
        branches.append(f"{any_case(first)}(?:{inner})")
    return "|".join(branches)


def any_case(letter: str) -> str:
    """Write a letter as an expression that matches it in either case."""
    return f"[{letter}{letter.upper()}]"


def pattern_of(phrase: str) -> str:
    """Write a phrase without its beginning as a regular expression with an empty group."""
    if is_regex(phrase):
        return f"(?:{phrase[1:-1]})()"
    start = beginning(phrase)
    rest = re.sub(r"\s+", " ", phrase)[len(start) :]
    words = re.escape(rest).replace(r"\*", r"\w*").replace(r"\ ", " ")
    ends = r"(?!\w)" if phrase[-1].isalnum() or phrase[-1] == "*" else ""
    if phrase == phrase.lower():
        return f"(?i:{words}){ends}()"
    return f"(?<={phrase[: len(start)]}){words}{ends}()" if start else f"{words}{ends}()"


def in_headline(match: re.Match[str]) -> bool:
    """Whether the word before or after the match is in capitals too."""
    start, end = match.span()
    before = re.search(r"(\w+) $", match.string[max(0, start - 40) : start])
    after = re.match(r" (\w+)", match.string[end : end + 40])
    return any(found and CAPITALS.fullmatch(found[1]) for found in (before, after))
