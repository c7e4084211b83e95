"""From records to token ids, with a mask of the targets and their weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Answer, Conversation, Record, Text
from pipeline.data.tokenize.chat import Span, conversation_spans

Draft = list[Span] | RowError
Tokenized = tuple[Sequence[Encoding], Sequence[Encoding]]


class Encoded(NamedTuple):
    """A tokenized document.

    Attributes:
        ids: token ids.
        target_mask: True where a token is learnt.
        weights: how much each target counts, and 1 on other tokens; None where each counts 1.
    """

    ids: Int32[np.ndarray, " length"]
    target_mask: Bool[np.ndarray, " length"]
    weights: Float32[np.ndarray, " length"] | None = None


class Encoder:
    """Tokenizes records; many together are much faster than one by one.

    - Text: tokenized with the beginning-of-sequence token, if the tokenizer has one. All of it is
      learnt.
    - Prompt and completion: a conversation of two messages where there is a chat template. Where
      there is none, the prompt is tokenized like a text, and the completion apart from it. The
      completion is learnt.
    - Conversation: see `conversation_spans`. Every answer is learnt, or the last one. The template
      writes the beginning-of-sequence token.

    An end-of-sequence token closes the record and is learnt, unless the text or the template has
    closed it already. Tokens of weight 0 are not learnt, nor is the first token, which no other
    token predicts.

    Args:
        tokenizer: of the model.
        train_on: which answers of a conversation are learnt: all, or the last.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, train_on: str) -> None:
        self.tokenizer, self.train_on = tokenizer, train_on
        self.bos: Any = tokenizer.bos_token_id
        self.eos: Any = tokenizer.eos_token_id
        self.all_but_first = all_but_first(1024)
        self.control_tokens = frozenset(tokenizer.added_tokens_decoder) | {self.eos}

    def encode(self, records: Sequence[Record]) -> list[Encoded | RowError]:
        """Return the document of each record, or what is wrong with it."""
        drafts = [self.draft_of(record) for record in records]
        return self.join(drafts, self.tokenize(drafts))

    def draft_of(self, record: Record) -> Draft:
        """Cut a record into spans to tokenize, or return what is wrong with it."""
        content, weight = record.content, record.weight
        if isinstance(content, Text):
            return [Span(content.text, weight, True)]
        if isinstance(content, Answer) and not self.tokenizer.chat_template:
            return [Span(content.prompt, 0.0, True), Span(content.completion, weight)]
        try:
            spans = conversation_spans(self.tokenizer, as_conversation(content), self.train_on)
        except RowError as error:
            return error
        return [span._replace(weight=span.weight * weight) for span in spans]

    def tokenize(self, drafts: Sequence[Draft]) -> Tokenized:
        """Tokenize all spans in two calls of the library, which uses its threads and no lock.

        Returns:
            The encodings of the spans that continue a record, and of those that open one, to
            which the tokenizer may add special tokens.
        """
        texts: tuple[list[str], list[str]] = ([], [])
        for draft in drafts:
            if not isinstance(draft, RowError):
                for span in draft:
                    texts[span.is_opening].append(span.text)
        encode = self.tokenizer.backend_tokenizer.encode_batch_fast
        return encode(texts[0], add_special_tokens=False), encode(texts[1])

    def join(self, drafts: Sequence[Draft], tokenized: Tokenized) -> list[Encoded | RowError]:
        """Return the document of each record, made of its spans."""
        rest, opening = map(iter, tokenized)
        results = list[Encoded | RowError]()
        for draft in drafts:
            if isinstance(draft, RowError):
                results.append(draft)
            elif len(draft) == 1 and draft[0].is_opening and draft[0].weight == 1:
                results.append(self.close_text(next(opening).ids))
            else:
                ids = [next(opening if span.is_opening else rest).ids for span in draft]
                results.append(self.assemble([*zip(draft, map(array_of, ids), strict=True)]))
        return results

    def close_text(self, ids: list[int]) -> Encoded | RowError:
        """Return the document of a text, with an end-of-sequence token at its end."""
        if self.bos is not None and ids[:2] == [self.bos, self.bos]:
            return self.opening_error()
        if ids[-1:] != [self.eos]:
            ids.append(self.eos)
        if len(ids) > len(self.all_but_first):
            self.all_but_first = all_but_first(2 * len(ids))
        return Encoded(array_of(ids), self.all_but_first[: len(ids)])

    def assemble(self, parts: Sequence[tuple[Span, Int32[np.ndarray, " _"]]]) -> Encoded | RowError:
        """Return the document of a record: its spans, closed by an end-of-sequence token."""
        runs = list[tuple[Int32[np.ndarray, " length"], float]]()
        for span, ids in parts:
            if not span.weight and span.is_opening and ids[-1:].tolist() == [self.eos]:
                ids = ids[:-1]  # some tokenizers close every text
            runs.append((ids, span.weight))
        last, last_ids = parts[-1]
        if last.weight and not self.is_closed(last_ids, from_template=not parts[0][0].is_opening):
            runs.append((array_of([self.eos]), last.weight))
        ids = np.concatenate([ids for ids, _ in runs])
        if self.opens_twice(ids):
            return self.opening_error()
        weights = np.array([weight for _, weight in runs], np.float32)
        return masked(ids, np.repeat(weights, [len(ids) for ids, _ in runs]))

    def opens_twice(self, ids: Int32[np.ndarray, " length"]) -> bool:
        """Whether a record starts with two beginning-of-sequence tokens."""
        return self.bos is not None and len(ids) > 1 and bool(ids[0] == ids[1] == self.bos)

    def opening_error(self) -> RowError:
        """Return the error of a record that starts with two beginning-of-sequence tokens."""
        return RowError(
            f"starts with {self.tokenizer.bos_token} twice: the tokenizer or its chat "
            "template writes it, so take it out of the row"
        )

    def is_closed(self, ids: Int32[np.ndarray, " length"], from_template: bool) -> bool:
        """Whether the last span, which is learnt, closes the record already.

        A chat template may close an answer with another control token than the tokenizer's end of
        sequence, and may write white space after it.
        """
        if from_template:
            return not self.control_tokens.isdisjoint(ids.tolist())
        return len(ids) > 0 and bool(ids[-1] == self.eos)


def array_of(ids: list[int]) -> Int32[np.ndarray, " length"]:
    """Copy ids into an array; with a known length this is the fastest way."""
    return np.fromiter(ids, np.int32, len(ids))


def all_but_first(length: int) -> Bool[np.ndarray, " length"]:
    """Return the mask of a text of this length; shorter texts use its beginning."""
    mask = np.arange(length) > 0
    mask.flags.writeable = False
    return mask


def masked(ids: Int32[np.ndarray, " length"], weights: Float32[np.ndarray, " length"]) -> Encoded:
    """Return a document in which tokens of weight 0 and the first token are no targets."""
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
