"""A record becomes token ids, and a mask that says which of them are to be learnt."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from transformers import PreTrainedTokenizerFast

from pipeline.data.chat import Piece, conversation_pieces
from pipeline.data.fields import RowError
from pipeline.data.records import Answer, Conversation, Record, Text

Encoded = tuple[Int32[np.ndarray, " _"], Bool[np.ndarray, " _"]]
"""Ids and target mask of one document, of equal length; documents differ in theirs."""


class Encoder:
    """Tokenizes records; several together are much faster than one by one.

    - Text: as the tokenizer does it, with its beginning-of-sequence token if it has one. All is
      to be learnt.
    - Prompt and completion: a conversation of two messages where there is a chat template. Where
      there is none, the prompt is tokenized as text is and the completion after it by itself.
      The completion is to be learnt.
    - Conversation: see `conversation_pieces`. Every answer is to be learnt. The template writes
      the beginning-of-sequence token.

    One end-of-sequence token closes the record and is to be learnt, unless the text or the
    template has closed it. The first token is never to be learnt: nothing comes before it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
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
        content = record.content
        if isinstance(content, Text):
            return [Piece(content.text, True, is_opening=True)]
        if isinstance(content, Answer) and not self.tokenizer.chat_template:
            return [Piece(content.prompt, False, is_opening=True), Piece(content.completion, True)]
        try:
            return conversation_pieces(self.tokenizer, as_conversation(content))
        except RowError as error:
            return error

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
        ids, mask, last = list[int](), list[bool](), list[int]()
        for piece, piece_ids in parts:
            if not piece.is_target and piece.is_opening and piece_ids[-1:] == [self.eos]:
                piece_ids = piece_ids[:-1]  # some tokenizers close whatever they are given
            last = piece_ids if piece.is_target else last
            ids += piece_ids
            mask += [piece.is_target] * len(piece_ids)
        if self.bos is not None and ids[:2] == [self.bos] * 2:
            return RowError(
                f"starts with {self.tokenizer.bos_token} twice: the tokenizer or its chat "
                "template writes it, so take it out of the row"
            )
        if not self.is_closed(last, from_template=not parts[0][0].is_opening):
            ids.append(self.eos)
            mask.append(True)
        mask[0] = False
        return np.array(ids, np.int32), np.array(mask, np.bool_)

    def is_closed(self, ids: Sequence[int], from_template: bool) -> bool:
        """Tell whether the last piece to be learnt ends the record already.

        A chat template may close an answer with another control token than the tokenizer's end of
        sequence, and may write white space after it.
        """
        if from_template:
            return not self.control_tokens.isdisjoint(ids)
        return bool(ids) and ids[-1] == self.eos


def encode_record(tokenizer: PreTrainedTokenizerFast, record: Record) -> Encoded:
    """Tokenize one record.

    Raises:
        RowError: when it cannot be tokenized as it should.
    """
    (result,) = Encoder(tokenizer).encode([record])
    if isinstance(result, RowError):
        raise result
    return result


def as_conversation(content: Answer | Conversation) -> Conversation:
    """Turn prompt and completion into a conversation of two messages."""
    if isinstance(content, Conversation):
        return content
    roles = {"user": content.prompt, "assistant": content.completion}
    return Conversation([{"role": role, "content": text} for role, text in roles.items()])
