"""Where a text can be cut so that its parts give the same token ids as the whole.

Most tokenizers never let a token reach across white space that a word follows. Which ones do so
can be told from their files; the others are left alone.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tokenizers import Tokenizer, models

MARK = "▁"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
OTHER = "\x85\xa0\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u2060\u3000\ufeff"
"""White space beyond ASCII; more than Unicode calls so, that nothing depends on its version."""
JOINED = rf"[^\s{OTHER}]*(?:\s*[{OTHER}][\s{OTHER}]*[^\s{OTHER}]*)+"
"""Words around such white space stay together."""
MIXED = re.compile(rf"[{OTHER}](?:(?<=\s.)|(?=\s))", re.ASCII)
"""Where both kinds of white space meet; elsewhere the other kind is like a letter."""
SPACES = r"\s+(?!\S)|\s+"
ONE_SPACE = (rf" ?\S+|{SPACES}", rf" ?{JOINED}|")
LINE_ENDS = (
    rf"[\t\v\f ]?\S+(?:\s*[\r\n])?|\s*[\r\n]|{SPACES}",
    rf"[\t\v\f ]?{JOINED}(?:\s*[\r\n])?|",
)
"""Here one space of any kind goes with the word after it, and line ends with the one before."""
WORDS = {GPT2: ONE_SPACE, LLAMA3: LINE_ENDS, QWEN2: LINE_ENDS}
"""What finds the words of a text, by the expression that a tokenizer cuts with; and what is to be
looked for before it where there is white space beyond ASCII."""
MARKED_WORD = re.compile(" *[^ ]+| +")


@dataclass(frozen=True)
class Cutter:
    """Cuts texts for one tokenizer.

    Attributes:
        words: gives the parts of a text, or None where it must stay whole.
        control_tokens: texts that hold one of these stay whole too.
    """

    words: Callable[[str], list[str] | None]
    control_tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        """Prepare to look for control tokens; most texts have not even the first character."""
        object.__setattr__(self, "_firsts", {token[0] for token in self.control_tokens})

    def cut(self, text: str) -> list[str] | None:
        """Give the parts of a text; None where it must stay whole."""
        for first in self._firsts:  # pyright: ignore[reportAttributeAccessIssue]
            if first in text and any(token in text for token in self.control_tokens):
                return None
        return self.words(text)


def cutter_of(tokenizer: Tokenizer) -> Cutter | None:
    """Find out how texts can be cut for a tokenizer; None: it is of no kind known here."""
    added = tokenizer.get_added_tokens_decoder().values()
    model, normalizer = tokenizer.model, parts_of(tokenizer.normalizer)
    if not isinstance(model, models.BPE) or model.dropout:
        return None
    if normalizer and any(token.normalized for token in added):
        return None  # such a token may be found where the text does not hold it
    control_tokens = tuple(token.content for token in added)
    steps = parts_of(tokenizer.pre_tokenizer)
    if cuts_at_marks(normalizer, steps) and keeps_to_marks(tokenizer):
        return Cutter(partial(words_with_marks, bool(normalizer)), control_tokens)
    if [part["type"] for part in normalizer] in ([], ["NFC"]) and expression(steps) in WORDS:
        return Cutter(word_finder(*WORDS[expression(steps)]), control_tokens)
    return None


def parts_of(component: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Read the settings of a normalizer or pre-tokenizer, step by step."""
    if component is None:
        return []
    settings = json.loads(component.__getstate__())
    return settings.get("normalizers") or settings.get("pretokenizers") or [settings]


def expression(steps: list[dict[str, Any]]) -> str:
    """Give the expression that a byte-level tokenizer cuts with; empty where it is another."""
    *first, last = steps or [{"type": ""}]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return ""
    if not first:
        return GPT2 if last["use_regex"] else ""
    step = first[0]
    is_split = len(first) == 1 and step["type"] == "Split" and not last["use_regex"]
    if not is_split or step["behavior"] != "Isolated" or step["invert"]:
        return ""
    return step["pattern"].get("Regex", "")


def cuts_at_marks(normalizer: list[dict[str, Any]], steps: list[dict[str, Any]]) -> bool:
    """Tell whether spaces become marks and the text begins with one, as in SentencePiece."""
    if not normalizer:
        return len(steps) == 1 and (
            steps[0]["type"] == "Metaspace"
            and steps[0]["replacement"] == MARK
            and steps[0]["prepend_scheme"] in ("always", "first")
        )
    marks = [
        {"type": "Prepend", "prepend": MARK},
        {"type": "Replace", "pattern": {"String": " "}, "content": MARK},
    ]
    return normalizer == marks and not steps


def keeps_to_marks(tokenizer: Tokenizer) -> bool:
    """Tell whether no token, and so no merge, has a mark after another character."""
    model, vocabulary = tokenizer.model, tokenizer.get_vocab(with_added_tokens=False)
    assert isinstance(model, models.BPE)
    if model.ignore_merges or model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    return MARK in vocabulary and not any(MARK in token.lstrip(MARK) for token in vocabulary)


def words_with_marks(always_prepends: bool, text: str) -> list[str] | None:
    """Cut before spaces; the tokenizer puts a mark before each word that comes without its own."""
    if "  " not in text and text[:1] not in ("", " ") and text[-1] != " " and MARK not in text:
        return text.split(" ")
    return None if always_prepends else MARKED_WORD.findall(text)


def word_finder(words: str, joined: str) -> Callable[[str], list[str]]:
    """Make what finds words; slower where both kinds of white space meet."""
    usual = re.compile(words, re.ASCII).findall
    mixed = re.compile(joined + words, re.ASCII).findall

    def find(text: str) -> list[str]:
        return usual(text) if text.isascii() or not MIXED.search(text) else mixed(text)

    return find
