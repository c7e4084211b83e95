"""A record becomes token ids, and a mask and weights that say which are learnt, and how much."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress
from operator import not_
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32
from transformers import PreTrainedTokenizerFast

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Answer, Conversation, Record, Text
from pipeline.data.tokenize.chat import Piece, conversation_pieces
from pipeline.data.tokenize.word_cache import ID, CachedTokenizer


class Encoded(NamedTuple):
    """One document; documents differ in their lengths.

    Attributes:
        ids: token ids.
        target_mask: True where a token is to be learnt.
        weights: how much each target counts, and 1 on other tokens; None: every target counts 1.
    """

    ids: Int32[np.ndarray, " length"]
    target_mask: Bool[np.ndarray, " length"]
    weights: Float32[np.ndarray, " length"] | None = None


class Encoder:
    """Tokenizes records; several together are much faster than one by one.

    - Text: as the tokenizer does it, with its beginning-of-sequence token if it has one. All is
      to be learnt.
    - Prompt and completion: a conversation of two messages where there is a chat template. Where
      there is none, the prompt is tokenized as text is and the completion after it by itself.
      The completion is to be learnt.
    - Conversation: see `conversation_pieces`. Every answer is to be learnt, or the last one. The
      template writes the beginning-of-sequence token.

    One end-of-sequence token closes the record and is to be learnt, unless the text or the
    template has closed it. What has weight 0 is not to be learnt, and never the first token:
    nothing comes before it.

    Args:
        tokenizer: of the model.
        train_on: which answers of a conversation are learnt: all, or the last.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, train_on: str) -> None:
        self.tokenizer, self.train_on = tokenizer, train_on
        self.bos: Any = tokenizer.bos_token_id
        self.eos: Any = tokenizer.eos_token_id
        self.closing = np.array([self.eos], ID).tobytes()
        self.opening_twice = b"" if self.bos is None else np.array([self.bos] * 2, ID).tobytes()
        self.cached = CachedTokenizer(tokenizer.backend_tokenizer)
        self.all_but_first = all_but_first(1024)
        self.control_tokens = frozenset(tokenizer.added_tokens_decoder) | {self.eos}

    def encode(self, records: Sequence[Record]) -> list[Encoded | RowError]:
        """Give ids and target mask of each record, or what is wrong with it."""
        is_plain = [isinstance(each.content, Text) and each.weight == 1 for each in records]
        plain = iter(self.encode_texts(list(compress(records, is_plain))))
        others = iter(self.encode_others(list(compress(records, map(not_, is_plain)))))
        return [next(plain if each else others) for each in is_plain]

    def facts(self) -> dict[str, float]:
        """Say how the ids were found: the share of the texts that were cut into words.

        It is 0 where the tokenizer is of no kind that can be cut: then all take the slower way.
        """
        cached = self.cached
        return {"texts_cut_into_words_share": cached.num_cut / max(cached.num_texts, 1)}

    def encode_texts(self, records: Sequence[Record]) -> list[Encoded | RowError]:
        """Give what `encode_others` would give of texts of weight 1, without the weights."""
        texts = [record.content.text for record in records if isinstance(record.content, Text)]
        return [*map(self.close_text, self.cached.encode(texts, add_special_tokens=True))]

    def close_text(self, data: bytes) -> Encoded | RowError:
        """Close a text, all of which is to be learnt."""
        if self.opening_twice and data.startswith(self.opening_twice):
            return self.opening_error()
        if not data.endswith(self.closing):
            data += self.closing
        ids = np.frombuffer(data, ID)
        if len(ids) > len(self.all_but_first):
            self.all_but_first = all_but_first(2 * len(ids))
        return Encoded(ids, self.all_but_first[: len(ids)])

    def encode_others(self, records: Sequence[Record]) -> list[Encoded | RowError]:
        """Encode records whose tokens may differ in what they count."""
        plans = [self.plan(record) for record in records]
        pieces = [piece for plan in plans if not isinstance(plan, RowError) for piece in plan]
        ids = iter(self.encode_pieces(pieces))
        return [
            plan
            if isinstance(plan, RowError)
            else self.assemble([(piece, next(ids)) for piece in plan])
            for plan in plans
        ]

    def plan(self, record: Record) -> list[Piece] | RowError:
        """Cut a record into pieces to tokenize, or say why that cannot be done."""
        content, weight = record.content, record.weight
        if isinstance(content, Text):
            return [Piece(content.text, weight, is_opening=True)]
        if isinstance(content, Answer) and not self.tokenizer.chat_template:
            return [Piece(content.prompt, 0.0, is_opening=True), Piece(content.completion, weight)]
        conversation = as_conversation(content)
        try:
            pieces = conversation_pieces(self.tokenizer, conversation, self.train_on)
        except RowError as error:
            return error
        return [replace(piece, weight=piece.weight * weight) for piece in pieces]

    def encode_pieces(self, pieces: Sequence[Piece]) -> list[Int32[np.ndarray, " _"]]:
        """Tokenize in two calls: the pieces that may get special tokens, and the others."""
        found = dict[bool, Iterator[Any]]()
        for is_opening in (True, False):
            texts = [piece.text for piece in pieces if piece.is_opening == is_opening]
            found[is_opening] = iter(self.cached.encode(texts, add_special_tokens=is_opening))
        return [np.frombuffer(next(found[piece.is_opening]), ID) for piece in pieces]

    def assemble(
        self, parts: Sequence[tuple[Piece, Int32[np.ndarray, " _"]]]
    ) -> Encoded | RowError:
        """Join the pieces of a record, and close it."""
        runs = list[tuple[Int32[np.ndarray, " length"], float]]()
        for piece, ids in parts:
            if not piece.weight and piece.is_opening and ids[-1:].tolist() == [self.eos]:
                ids = ids[:-1]  # some tokenizers close whatever they are given
            runs.append((ids, piece.weight))
        last, last_ids = parts[-1]
        if last.weight and not self.is_closed(last_ids, from_template=not parts[0][0].is_opening):
            runs.append((np.frombuffer(self.closing, ID), last.weight))
        ids = np.concatenate([ids for ids, _ in runs])
        if self.opens_twice(ids):
            return self.opening_error()
        weights = np.array([weight for _, weight in runs], np.float32)
        return masked(ids, np.repeat(weights, [len(ids) for ids, _ in runs]))

    def opens_twice(self, ids: Int32[np.ndarray, " length"]) -> bool:
        """Tell whether a record has two beginning-of-sequence tokens."""
        return self.bos is not None and len(ids) > 1 and bool(ids[0] == ids[1] == self.bos)

    def opening_error(self) -> RowError:
        """Say that a record has two beginning-of-sequence tokens."""
        return RowError(
            f"starts with {self.tokenizer.bos_token} twice: the tokenizer or its chat "
            "template writes it, so take it out of the row"
        )

    def is_closed(self, ids: Int32[np.ndarray, " length"], from_template: bool) -> bool:
        """Tell whether the last piece, which is to be learnt, ends the record already.

        A chat template may close an answer with another control token than the tokenizer's end of
        sequence, and may write white space after it.
        """
        if from_template:
            return not self.control_tokens.isdisjoint(ids.tolist())
        return len(ids) > 0 and bool(ids[-1] == self.eos)


def all_but_first(length: int) -> Bool[np.ndarray, " length"]:
    """Make the mask of a text, to be shared by all that are not longer."""
    mask = np.arange(length) > 0
    mask.flags.writeable = False
    return mask


def masked(ids: Int32[np.ndarray, " length"], weights: Float32[np.ndarray, " length"]) -> Encoded:
    """Make a document; what has weight 0, and the first token, is no target."""
    mask = weights > 0
    mask[:1] = False
    plain = bool((weights[mask] == 1).all())
    return Encoded(ids, mask, None if plain else np.where(mask, weights, np.float32(1)))


def encode_record(
    tokenizer: PreTrainedTokenizerFast, record: Record, train_on: str = "all"
) -> Encoded:
    """Tokenize one record.

    Raises:
        RowError: when it cannot be tokenized as it should.
    """
    (result,) = Encoder(tokenizer, train_on).encode([record])
    if isinstance(result, RowError):
        raise result
    return result


def as_conversation(content: Answer | Conversation) -> Conversation:
    """Turn prompt and completion into a conversation of two messages."""
    if isinstance(content, Conversation):
        return content
    roles = {"user": content.prompt, "assistant": content.completion}
    return Conversation([{"role": role, "content": text} for role, text in roles.items()])
