"""Tables of words and phrases as one regular expression each, with word boundaries."""

import re
from collections.abc import Iterator, Mapping, Sequence

from pipeline.errors import ConfigError, report_problems

REMEDY = (
    "A term is a phrase, in which * ends a word as it likes (specimen*), or /a regular expression/."
)
SHOUTED = re.compile(r"(?<![^\W_])[A-Z]{2,}(?![^\W_])")


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
        entries.sort(key=lambda entry: (is_regex(entry[1]), -len(entry[1]), entry[1]))
        self._kinds = [kind for kind, _ in entries]
        self._acronyms = [term.isupper() and not is_regex(term) for _, term in entries]
        self._regex = re.compile("|".join(f"({pattern_of(term)})" for _, term in entries))

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


def pattern_of(term: str) -> str:
    """Write a term as a regular expression."""
    if is_regex(term):
        return term[1:-1]
    words = " ".join(re.escape(word).replace(r"\*", r"\w*") for word in term.split())
    starts = r"(?<!\w)" if term[0].isalnum() else ""
    ends = r"(?!\w)" if term[-1].isalnum() or term[-1] == "*" else ""
    body = f"(?i:{words})" if term == term.lower() else words
    return f"{starts}{body}{ends}"


def is_shouted(match: re.Match[str]) -> bool:
    """Tell whether the word before or after is all in capitals too."""
    before = re.search(r"\w+(?=\W*$)", match.string[max(0, match.start() - 40) : match.start()])
    after = re.match(r"\W*(\w+)", match.string[match.end() : match.end() + 40])
    beside = [found[0] for found in (before, after) if found]
    return any(SHOUTED.search(word) for word in beside)
