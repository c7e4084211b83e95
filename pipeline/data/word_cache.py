"""Token ids from memory, word by word: those that the tokenizer gives, several times faster.

The tokenizers library goes through every text character by character, however often its words
came before. Here each different word goes through it once.
"""

from collections.abc import Sequence
from itertools import chain, product

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer

from pipeline.data.cutters import cutter_of

ID = np.dtype(np.int32)
MAX_BYTES = 1 << 24
"""About what all words may take; beyond it they are forgotten, and learnt anew."""
FIRST_WORDS, NEW_SHARE = 1 << 14, 0.2
"""Once so many words are known, a new one costs about five times its share of a whole text."""
BYTES_PER_WORD, BYTES_PER_CHARACTER = 200, 5
PROBES = (
    "".join(map("".join, product("aZ9 \n\r\t.'/é猫", repeat=3))),
    " ".join(map("".join, product("aZ9\n.'/é猫", repeat=3))),
)
"""Texts with every three of these characters in a row, and words of any two kinds."""


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
        self._ids: dict[str, bytes] = {}
        self._bytes = self.num_texts = self.num_cut = 0
        before, after = special_ids(backend)
        self._special = {True: (before, after), False: (b"", b"")}
        self._cutter = cutter_of(backend)
        if self._cutter and not self.agrees():
            self._cutter = None
        self.num_texts = self.num_cut = 0

    def encode(
        self, texts: Sequence[str], add_special_tokens: bool
    ) -> list[Int32[np.ndarray, " _"]]:
        """Give the ids of each text, as the tokenizer does; arrays that are not to be changed."""
        cut = self._cutter.cut if self._cutter else lambda text: None
        words = [cut(text) for text in texts]
        if not self.learn([parts for parts in words if parts is not None]):
            words = [None] * len(texts)
        whole = [text for text, parts in zip(texts, words, strict=True) if parts is None]
        self.num_texts += len(texts)
        self.num_cut += len(texts) - len(whole)
        encodings = iter(
            self.backend.encode_batch_fast(whole, add_special_tokens=add_special_tokens)
        )
        before, after = self._special[add_special_tokens]
        ids_of = self._ids.__getitem__
        return [
            np.array(next(encodings).ids, ID)
            if parts is None
            else np.frombuffer(b"".join([before, *map(ids_of, parts), after]), ID)
            for parts in words
        ]

    def learn(self, words: list[list[str]]) -> bool:
        """Tokenize those words that are new, all at once so that the library uses its threads.

        Returns:
            Whether all are known now; else so many are new that whole texts cost less.
        """
        different = set(chain.from_iterable(words))
        new = list(different - self._ids.keys())
        if len(self._ids) > FIRST_WORDS and len(new) > NEW_SHARE * sum(map(len, words)):
            return False
        if self._bytes + memory_of(new) > MAX_BYTES:
            self._ids, self._bytes, new = {}, 0, list(different)
        self._bytes += memory_of(new)
        encodings = self.backend.encode_batch_fast(new, add_special_tokens=False)
        for word, encoding in zip(new, encodings, strict=True):
            self._ids[word] = np.array(encoding.ids, ID).tobytes()
        return True

    def agrees(self) -> bool:
        """Tell whether texts that are hard to cut get the ids that the tokenizer gives."""
        expected = self.backend.encode_batch_fast(PROBES, add_special_tokens=True)
        found = self.encode(PROBES, add_special_tokens=True)
        return [ids.tolist() for ids in found] == [encoding.ids for encoding in expected]


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
