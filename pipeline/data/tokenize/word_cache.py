"""Token ids from memory, word by word: those that the tokenizer gives, several times faster.

The tokenizers library goes through every text character by character, however often its words
came before. Here each different word goes through it once.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product

import numpy as np
from tokenizers import Tokenizer

from pipeline.data.tokenize.cutters import cutter_of

ID = np.dtype(np.int32)
MAX_BYTES = 1 << 24
"""About what all words may take; beyond it they are forgotten, and learnt anew."""
FIRST_WORDS, NEW_SHARE = 1 << 14, 0.2
"""Once so many words are known, texts with a larger share of new ones are left to the library."""
BYTES_PER_WORD, BYTES_PER_CHARACTER = 200, 5
WORDS_PER_TEXT = 256
PROBES = (
    "".join(map("".join, product("aZ9 \n\r\t.'/é猫", repeat=3))),
    " ".join(map("".join, product("aZ9\n.'/é猫", repeat=3))),
)
"""Texts with every three of these characters in a row, and words of any two kinds."""


UNKNOWN = b"?"
"""Stands for the ids of a word, and is shorter than one."""


class Memory(dict[str, bytes]):
    """The ids of words; those that are looked for and not known are noted, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.unknown = list[str]()

    def __missing__(self, word: str) -> bytes:
        self.unknown.append(word)
        return UNKNOWN


class CachedTokenizer:
    """Tokenizes texts, with a memory for words.

    Args:
        backend: must not change any more.

    Attributes:
        num_texts: how many it was given so far.
        num_cut: how many of them got their ids word by word.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self.backend = backend
        before, after = special_ids(backend)
        self._special = {True: (before, after), False: (b"", b"")}
        self._cutter = cutter_of(backend)
        for self._separator in (separator_of(backend), None):
            self._memory, self._bytes, self.num_texts, self.num_cut = Memory(), 0, 0, 0
            if self._cutter and self.agrees():
                break
        else:
            self._cutter = None
        self.num_texts = self.num_cut = 0

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[bytes]:
        """Give the ids of each text, as the tokenizer does: 32-bit integers, in their bytes."""
        found: list[bytes | None] = [None] * len(texts)
        if self._cutter:
            found = self.remembered(self._cutter.cut, texts, add_special_tokens)
        whole = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        self.num_texts += len(texts)
        self.num_cut += len(texts) - len(whole)
        rest = self.tokenized(whole, add_special_tokens)
        return [next(rest) if ids is None else ids for ids in found]

    def remembered(
        self,
        cut: Callable[[str], list[str] | None],
        texts: Sequence[str],
        add_special_tokens: bool,
    ) -> list[bytes | None]:
        """Give the ids of texts word by word; None where a text must stay whole, or rather does.

        Each text is looked up as soon as it is cut, while its words are in the processor's cache.
        """
        before, after = self._special[add_special_tokens]
        look_up, unknown = self._memory.__getitem__, self._memory.unknown
        found, lacking = list[bytes | None](), list[tuple[int, list[bytes]]]()
        count = 0
        for index, text in enumerate(texts):
            words = cut(text)
            if words is None:
                found.append(None)
                continue
            pieces = [before, *map(look_up, words), after]
            found.append(b"".join(pieces))
            if len(unknown) > count:
                lacking.append((index, pieces))
                count = len(unknown)
        are_known = self.learn(sum(len(pieces) for _, pieces in lacking))
        words_in_order = iter(unknown)
        for index, pieces in lacking:
            found[index] = self.completed(pieces, words_in_order) if are_known else None
        unknown.clear()
        return found

    def completed(self, pieces: list[bytes], unknown: Iterator[str]) -> bytes:
        """Join the ids of a text, now that its words are known."""
        at = -1
        for _ in range(pieces.count(UNKNOWN)):
            at = pieces.index(UNKNOWN, at + 1)
            pieces[at] = self._memory[next(unknown)]
        return b"".join(pieces)

    def learn(self, num_words: int) -> bool:
        """Tokenize the unknown words.

        Args:
            num_words: of all texts that hold some.

        Returns:
            Whether they are known now; else so many are new that whole texts cost less.
        """
        new = list(dict.fromkeys(self._memory.unknown))
        if len(self._memory) > FIRST_WORDS and len(new) > NEW_SHARE * num_words:
            return False
        if self._bytes + memory_of(new) > MAX_BYTES:
            self._memory.clear()
            self._bytes = 0
        self._bytes += memory_of(new)
        self._memory.update(zip(new, self.word_ids(new), strict=True))
        return True

    def word_ids(self, words: list[str]) -> Iterator[bytes]:
        """Give the ids of each word.

        The library takes longer to be asked than to answer. So it is given texts of many words,
        with a control token between them. Where words have its id among theirs, as that of what a
        vocabulary lacks, they are given one by one after all.
        """
        if self._separator is None:
            yield from self.tokenized(words)
            return
        text, id = self._separator
        groups = [words[at : at + WORDS_PER_TEXT] for at in range(0, len(words), WORDS_PER_TEXT)]
        joined = self.tokenized([text.join(group) for group in groups])
        for group, data in zip(groups, joined, strict=True):
            borders = np.flatnonzero(np.frombuffer(data, ID) == id) * ID.itemsize
            if len(borders) != len(group) - 1:
                yield from self.tokenized(group)
                continue
            for before, after in pairwise([-ID.itemsize, *borders.tolist(), len(data)]):
                yield data[before + ID.itemsize : after]

    def tokenized(self, texts: Sequence[str], add_special_tokens: bool = False) -> Iterator[bytes]:
        """Let the library give the ids of texts, all at once so that it uses its threads."""
        for encoding in self.backend.encode_batch_fast(
            texts, add_special_tokens=add_special_tokens
        ):
            yield np.array(encoding.ids, ID).tobytes()

    def agrees(self) -> bool:
        """Tell whether texts that are hard to cut get the ids that the tokenizer gives."""
        return self.encode(PROBES, True) == [*self.tokenized(PROBES, True)]


def memory_of(words: list[str]) -> int:
    """Estimate what words take in memory with their ids, in bytes."""
    return BYTES_PER_WORD * len(words) + BYTES_PER_CHARACTER * sum(map(len, words))


def special_ids(backend: Tokenizer) -> tuple[bytes, bytes]:
    """Find what the tokenizer writes before and after every text."""
    bare, full = (
        backend.encode_batch_fast(["a"], add_special_tokens=add)[0].ids for add in (False, True)
    )
    start = next(
        (at for at in range(len(full)) if full[at : at + len(bare)] == bare),
        len(full),
    )
    before, after = full[:start], full[start + len(bare) :]
    return np.array(before, ID).tobytes(), np.array(after, ID).tobytes()


def separator_of(backend: Tokenizer) -> tuple[str, int] | None:
    """Find a control token that is found wherever it stands between two words, and its id."""
    if backend.encode_special_tokens:  # as any other text
        return None
    tokens = backend.get_added_tokens_decoder()
    unknown = getattr(backend.model, "unk_token", None)
    for id, token in sorted(tokens.items()):
        if token.content == unknown:
            continue
        takes_more = token.lstrip or token.rstrip or token.single_word or token.normalized
        others = (other.content for other in tokens.values())
        if not takes_more and not any(overlap(token.content, other) for other in others):
            return token.content, id
    return None


def overlap(one: str, other: str) -> bool:
    """Tell whether two texts may share characters, or a text with another like it."""
    if one == other:
        return any(one.endswith(one[:size]) for size in range(1, len(one)))
    return (
        one in other
        or other in one
        or any(one.endswith(other[:size]) for size in range(1, len(other)))
        or any(other.endswith(one[:size]) for size in range(1, len(one)))
    )
