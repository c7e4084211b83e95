"""From prompts and answers to the token ids of a document.

The ids of a prompt are those that generation begins with: the prompt encoded by itself. The ids of
an answer are the rest of prompt and answer encoded together, where those begin with the prompt's
ids. Where they do not, because a token would reach across the border, they are those of the answer
encoded as a continuation.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

from transformers import PreTrainedTokenizerFast

from pipeline.data.tokenize.borders import Borders
from pipeline.data.tokenize.chat import Turn, whole
from pipeline.data.tokenize.document import Encoded, weighted
from pipeline.data.tokenize.limits import panics_as_errors

KEPT_TAILS = 64
"""Ends of prompts whose ids are kept; nearly all prompts of a template end alike."""


class TurnIds:
    """Makes documents of turns.

    Where the tokenizer has certain borders, only what is new since the turn before is encoded, and
    an answer only together with the end of its prompt. That gives the same ids in linear time.

    Args:
        tokenizer: of the model.
        borders: of the tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, borders: Borders) -> None:
        self.backend, self.borders = tokenizer.backend_tokenizer, borders
        self.eos: Any = tokenizer.eos_token_id
        self.ids_of = lru_cache(KEPT_TAILS)(self.encoded)

    def encoded(self, text: str) -> list[int]:
        """Encode one text without special tokens."""
        with panics_as_errors():
            return self.backend.encode(text, add_special_tokens=False).ids

    def requests(self, turns: Sequence[Turn], opens: bool) -> Iterator[str]:
        """Yield the texts to encode, two for each turn: prompts, and prompts with answers.

        Args:
            turns: of one document.
            opens: whether the tokenizer adds special tokens, as it does where there is no template.
        """
        if self.borders.are_certain and not opens:
            for turn, tail in zip(turns, self.tails(turns), strict=True):
                yield turn.prompt
                yield tail + turn.answer
        else:
            for turn in whole(turns):
                yield turn.prompt
                yield turn.prompt + turn.answer

    def tails(self, turns: Sequence[Turn]) -> Iterator[str]:
        """Yield the end of each prompt on which the tokens of its answer depend."""
        for number, turn in enumerate(turns):
            tail = self.borders.tail(turn.prompt)
            if tail == turn.prompt and turn.kept:  # it has no control token; most often this has
                tail = self.borders.tail(turns[number - 1].answer + turn.prompt)
            if len(tail) > len(turn.prompt):
                tail = self.borders.tail([*whole(turns[: number + 1])][-1].prompt)
            yield tail

    def document(
        self, turns: Sequence[Turn], opens: bool, encoded: Sequence[list[int]]
    ) -> Encoded | int:
        """Make one document of turns.

        Args:
            turns: at least one.
            opens: as in `requests`.
            encoded: the ids of each text of `requests`.

        Returns:
            The document; or the index of the first message whose prompt has other ids than the
            document up to there, so that the turns have to be documents of their own.
        """
        apart = self.borders.are_certain and not opens
        tails = self.tails(turns) if apart else repeat("", len(turns))
        ids, runs = list[int](), list[tuple[int, float]]()
        for number, (turn, tail) in enumerate(zip(turns, tails, strict=True)):
            prompt, both = encoded[2 * number : 2 * number + 2]
            if opens:
                prompt, both = self.unclosed(prompt), self.unclosed(both)
            if not apart:
                if prompt[: len(ids)] != ids:
                    return turn.place
                prompt = prompt[len(ids) :]
            before = self.ids_of(tail) if apart else [*ids, *prompt]
            continues = both[: len(before)] == before
            if apart and not continues and number + 1 < len(turns):
                return turns[number + 1].place
            answer = both[len(before) :] if continues else self.borders.continuation(turn.answer)
            if not turn.is_closed:
                answer = [*self.unclosed(answer), self.eos]
            ids += [*prompt, *answer]
            runs += [(len(prompt), 0.0), (len(answer), turn.weight)]
        return weighted(ids, runs)

    def unclosed(self, ids: list[int]) -> list[int]:
        """Take an end-of-sequence token from the end: some tokenizers close every text."""
        return ids[:-1] if ids[-1:] == [self.eos] else ids

    def continued(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Return the ids of a prompt that no template has written, and those of what follows it."""
        texts = (prompt, prompt + answer)
        encoded = [self.backend.encode(text).ids for text in texts]
        document = self.document([Turn(prompt, answer, 1.0, is_closed=True)], True, encoded)
        assert isinstance(document, Encoded), "one turn is always one document"
        mask = document.target_mask
        return document.ids[~mask].tolist(), document.ids[mask].tolist()
