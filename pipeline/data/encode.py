"""A record becomes token ids, and a mask and weights that say which are learnt, and how much."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32
from transformers import PreTrainedTokenizerFast

from pipeline.data.chat import Piece, conversation_pieces
from pipeline.data.fields import RowError
from pipeline.data.records import Answer, Conversation, Record, Text


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
        self.control_tokens = frozenset(tokenizer.added_tokens_decoder) | {self.eos}

    def encode(self, records: Sequence[Record]) -> list[Encoded | RowError]:
        """Give ids and target mask of each record, or what is wrong with it."""
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

    def encode_pieces(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """Tokenize in two calls: the pieces that may get special tokens, and the others."""
        backend = self.tokenizer.backend_tokenizer
        found = dict[bool, Iterator[Any]]()
        for is_opening in (True, False):
            texts = [piece.text for piece in pieces if piece.is_opening == is_opening]
            found[is_opening] = iter(
                backend.encode_batch_fast(texts, add_special_tokens=is_opening)
            )
        return [next(found[piece.is_opening]).ids for piece in pieces]

    def assemble(self, parts: Sequence[tuple[Piece, list[int]]]) -> Encoded | RowError:
        """Join the pieces of a record, and close it."""
        ids, weights = list[int](), list[float]()
        for piece, piece_ids in parts:
            if not piece.weight and piece.is_opening and piece_ids[-1:] == [self.eos]:
                piece_ids = piece_ids[:-1]  # some tokenizers close whatever they are given
            ids += piece_ids
            weights += [piece.weight] * len(piece_ids)
        if self.bos is not None and ids[:2] == [self.bos] * 2:
            return RowError(
                f"starts with {self.tokenizer.bos_token} twice: the tokenizer or its chat "
                "template writes it, so take it out of the row"
            )
        last, last_ids = parts[-1]
        if last.weight and not self.is_closed(last_ids, from_template=not parts[0][0].is_opening):
            ids.append(self.eos)
            weights.append(last.weight)
        return masked(ids, weights)

    def is_closed(self, ids: Sequence[int], from_template: bool) -> bool:
        """Tell whether the last piece, which is to be learnt, ends the record already.

        A chat template may close an answer with another control token than the tokenizer's end of
        sequence, and may write white space after it.
        """
        if from_template:
            return not self.control_tokens.isdisjoint(ids)
        return bool(ids) and ids[-1] == self.eos


def masked(ids: Sequence[int], weights: Sequence[float]) -> Encoded:
    """Make arrays of ids and weights; what has weight 0, and the first token, is no target."""
    values = np.array(weights, np.float32)
    mask = values > 0
    mask[:1] = False
    plain = bool((values[mask] == 1).all())
    return Encoded(np.array(ids, np.int32), mask, None if plain else np.where(mask, values, 1))


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
