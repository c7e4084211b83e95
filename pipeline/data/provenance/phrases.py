"""Tables of words and phrases as one regular expression each, with word boundaries."""

import re
from collections.abc import Iterator, Mapping, Sequence

from pipeline.errors import ConfigError, report_problems

REMEDY = (
    "A term is a phrase, in which * ends a word as it likes (specimen*), or /a regular expression/."
)
SHOUTED = re.compile("[A-Z]{2,}")


class Terms:
    """Finds the terms of a table in a text; of terms that overlap only one is found.

    Without capitals a phrase is found in any case; with capitals only as it is written, so that
    `WHO` is an organisation and "who" is not. An acronym beside another word in capitals is a
    word of a headline, and not found.

    Args:
        name: of the table, for messages.
        table: the terms of each class.

    Raises:
        ConfigError: with every term that cannot be used.
    """

    def __init__(self, name: str, table: Mapping[str, Sequence[str]]) -> None:
        entries = [(kind, term) for kind, terms in table.items() for term in terms]
        problems = [
            f"{name}.{kind}: {term!r} {problem}"
            for kind, term in entries
            if (problem := problem_with(term))
        ]
        seen: dict[str, str] = {}
        for kind, term in entries:
            if seen.setdefault(term, kind) != kind:
                problems.append(f"{name}.{kind}: {term!r} is also in {name}.{seen[term]}")
        report_problems(ConfigError, "These terms cannot be used:", problems, REMEDY)
        # Longest first: "laboratory notebook" is one piece, not a notebook in a laboratory.
        entries.sort(key=lambda entry: (beginning(entry[1]), -len(entry[1]), entry[1]))
        self._kinds = [kind for kind, _ in entries]
        self._acronyms = [term.isupper() and not is_regex(term) for _, term in entries]
        self._regex = re.compile(rf"(?<!\w)(?=\S)(?:{alternatives([t for _, t in entries])})")

    def find(self, text: str) -> Iterator[tuple[str, str]]:
        """Give the class of each term found, and the words that are it.

        Args:
            text: its white space brought down to single spaces.
        """
        if not self._kinds:
            return
        for match in self._regex.finditer(text):
            assert match.lastindex is not None, "every term is a group"
            index = match.lastindex - 1
            if not (self._acronyms[index] and is_shouted(match)):
                yield self._kinds[index], match[0]


def is_regex(term: str) -> bool:
    """Tell a regular expression from a phrase."""
    return len(term) > 2 and term[0] == term[-1] == "/"


def problem_with(term: str) -> str | None:
    """Say why a term cannot be used; None if it can."""
    if is_regex(term):
        try:
            regex = re.compile(term[1:-1])
        except re.error as error:
            return f"is no regular expression: {error}"
        if regex.groups:
            return "has a capturing group; write (?:...)"
        return "matches the empty text" if regex.match("") else None
    if not re.search(r"\w", term):
        return "has no letter and no digit"
    return "has * inside a word or before one" if re.search(r"\*\w|(?<!\w)\*", term) else None


def beginning(term: str) -> str:
    """Give the first two letters of a phrase, by which it is looked up; none of an expression."""
    start = term[:2].lower()
    return start if start.isascii() and start.isalpha() and not is_regex(term) else ""


def alternatives(terms: Sequence[str]) -> str:
    """Write terms, sorted by their beginning, as alternatives of one regular expression.

    Phrases that begin alike share their first two letters, and an empty group behind each term
    tells which it was: an alternative that begins with a letter is passed over fastest.
    """
    by_letter: dict[str, dict[str, list[str]]] = {}
    for term in terms:
        start = beginning(term)
        by_letter.setdefault(start[:1], {}).setdefault(start[1:], []).append(pattern_of(term))
    branches = by_letter.pop("", {"": []})[""]
    for first, by_second in by_letter.items():
        inner = "|".join(
            f"{either(second)}(?:{'|'.join(by_second[second])})" for second in by_second
        )
        branches.append(f"{either(first)}(?:{inner})")
    return "|".join(branches)


def either(letter: str) -> str:
    """Match a letter in either case."""
    return f"[{letter}{letter.upper()}]"


def pattern_of(term: str) -> str:
    """Write a term, less its beginning, as a regular expression with an empty group behind it."""
    if is_regex(term):
        return f"(?:{term[1:-1]})()"
    start = beginning(term)
    rest = re.sub(r"\s+", " ", term)[len(start) :]
    words = re.escape(rest).replace(r"\*", r"\w*").replace(r"\ ", " ")
    ends = r"(?!\w)" if term[-1].isalnum() or term[-1] == "*" else ""
    if term == term.lower():
        return f"(?i:{words}){ends}()"
    return f"(?<={term[: len(start)]}){words}{ends}()" if start else f"{words}{ends}()"


def is_shouted(match: re.Match[str]) -> bool:
    """Tell whether the word before or after is all in capitals too."""
    start, end = match.span()
    before = re.search(r"(\w+) $", match.string[max(0, start - 40) : start])
    after = re.match(r" (\w+)", match.string[end : end + 40])
    beside = [found[1] for found in (before, after) if found]
    return any(SHOUTED.fullmatch(word) for word in beside)
