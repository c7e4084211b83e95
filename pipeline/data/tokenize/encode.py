"""From records to token ids, with a mask of the targets and their weights."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Answer, Conversation, Record, Text
from pipeline.data.tokenize.borders import Borders
from pipeline.data.tokenize.chat import Turn, check_letters, first_break, whole
from pipeline.data.tokenize.control import ControlTokens
from pipeline.data.tokenize.document import Encoded, all_but_first, array_of, weighted
from pipeline.data.tokenize.limits import MOST_IDS, panics_as_errors
from pipeline.data.tokenize.template_process import AppliedTemplate
from pipeline.data.tokenize.tokenizer import chat_template_of, vocabulary_size
from pipeline.data.tokenize.turn_ids import TurnIds
from pipeline.errors import ModelError


class Whole(NamedTuple):
    """A text, all of which is learnt by one weight."""

    text: str
    weight: float


class Chat(NamedTuple):
    """The documents of a row with prompts and answers, each a list of turns.

    Attributes:
        documents: turns of each document.
        opens: whether the tokenizer adds special tokens, because no template has written them.
    """

    documents: list[list[Turn]]
    opens: bool = False


Draft = Whole | Chat | RowError
Tokenized = tuple[Sequence[Encoding], Sequence[Encoding]]
Result = list[Encoded] | RowError


class Encoder:
    """Tokenizes records; many together are much faster than one by one.

    - Text: tokenized with the beginning-of-sequence token, if the tokenizer has one. All of it is
      learnt.
    - Prompt and completion: a conversation of two messages where there is a chat template. Where
      there is none, the prompt is tokenized like a text, and the completion continues it. The
      completion is learnt.
    - Conversation: see `turns_of`. Every answer is learnt, or the last one. The template writes the
      beginning-of-sequence token.

    An end-of-sequence token closes what is learnt last, unless the text or the template has closed
    it already. Tokens of weight 0 are not learnt, nor is the first token of a document, which no
    other token predicts.

    Args:
        tokenizer: of the model.
        train_on: which answers of a conversation are learnt: all, or the last.
        turns: whether a conversation is one document (`joined`), one for each answer that is learnt
            (`separate`), or one where the model is given the same text in each turn (`auto`).
        control_tokens: whether control tokens that a row holds as text are kept, or refused.

    Attributes:
        closing: the token with which the chat template closes an answer; empty where there is none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        train_on: str = "all",
        turns: str = "auto",
        control_tokens: str = "keep",
    ) -> None:
        self.tokenizer, self.turns = tokenizer, turns
        self.num_ids = vocabulary_size(tokenizer)
        if self.num_ids > MOST_IDS:
            raise ModelError(
                f"model.source: its tokenizer has id {self.num_ids - 1}; the largest that can be "
                f"stored is {MOST_IDS - 1}.\nChoose another model."
            )
        self.bos: Any = tokenizer.bos_token_id
        self.eos: Any = tokenizer.eos_token_id
        self.all_but_first = all_but_first(1024)
        self.control, self.refuses_control = ControlTokens(tokenizer), control_tokens == "refuse"
        self.template = AppliedTemplate(chat_template_of(tokenizer), train_on)
        self.closing = self.template.closing().token if tokenizer.chat_template else ""
        self.turn_ids = TurnIds(tokenizer, Borders(tokenizer, self.closing))

    def encode(self, records: Sequence[Record]) -> list[Result]:
        """Return the documents of each record, or what is wrong with it."""
        drafts = self.drafts_of(records)
        return self.join(drafts, self.tokenize(drafts))

    def drafts_of(self, records: Sequence[Record | RowError]) -> list[Draft]:
        """Return what is to be tokenized of each record, or what is wrong with it."""
        opened = [each if isinstance(each, RowError) else self.opened(each) for each in records]
        asked = [each for each in opened if isinstance(each, Conversation)]
        written = iter(self.template.turns(asked) if asked else [])
        drafts = list[Draft]()
        for record, draft in zip(records, opened, strict=True):
            if isinstance(draft, Conversation):
                assert isinstance(record, Record), "no error is a conversation"
                draft = self.chat_of(next(written), record.weight)
            drafts.append(draft)
        return drafts

    def opened(self, record: Record) -> Whole | Chat | Conversation | RowError:
        """Return what is to be tokenized of a record, or the conversation that it is."""
        content, weight = record.content, record.weight
        if self.refuses_control:
            try:
                self.control.refuse(content)
            except RowError as error:
                return error
        if isinstance(content, Text):
            return Whole(content.text, weight)
        if isinstance(content, Answer) and not self.tokenizer.chat_template:
            return Chat([[Turn(content.prompt, content.completion, weight)]], opens=True)
        return as_conversation(content)

    def chat_of(self, turns: list[Turn] | RowError, weight: float) -> Draft:
        """Divide a conversation into documents, by the text of its prompts and answers."""
        if isinstance(turns, RowError):
            return turns
        turns = [turn._replace(weight=turn.weight * weight) for turn in turns]
        index = first_break(turns)
        if index is not None and self.turns == "joined":
            return break_error(index)
        is_one = index is None and self.turns != "separate"
        if not (is_one and self.turn_ids.borders.are_certain) and (error := repetition_in(turns)):
            return error
        if is_one:
            return Chat([turns] if turns else [])
        return Chat([[turn] for turn in whole(turns)])

    def tokenize(self, drafts: Sequence[Draft]) -> Tokenized:
        """Tokenize all texts in two calls of the library, which uses its threads and no lock.

        Returns:
            The encodings of the texts that a template has written, and of those to which the
            tokenizer may add special tokens.

        Raises:
            ModelError: when the library fails with a text.
        """
        texts: tuple[list[str], list[str]] = ([], [])
        for draft in drafts:
            if isinstance(draft, Whole):
                texts[1].append(draft.text)
            elif isinstance(draft, Chat):
                for turns in draft.documents:
                    texts[draft.opens].extend(self.turn_ids.requests(turns, draft.opens))
        encode = self.tokenizer.backend_tokenizer.encode_batch_fast
        with panics_as_errors():
            return encode(texts[0], add_special_tokens=False), encode(texts[1])

    def join(self, drafts: Sequence[Draft], tokenized: Tokenized) -> list[Result]:
        """Return the documents of each record, made of its encodings."""
        encodings = (iter(tokenized[0]), iter(tokenized[1]))
        results = list[Result]()
        for draft in drafts:
            if isinstance(draft, RowError):
                results.append(draft)
            elif isinstance(draft, Whole):
                results.append(self.close_text(next(encodings[1]).ids, draft.weight))
            else:
                results.append(self.close_chat(draft, encodings[draft.opens]))
        return results

    def close_text(self, ids: list[int], weight: float) -> Result:
        """Return the document of a text, with an end-of-sequence token at its end."""
        if self.opens_twice(ids):
            return self.opening_error()
        if ids[-1:] != [self.eos]:
            ids.append(self.eos)
        if weight != 1:
            return [weighted(ids, [(len(ids), weight)])]
        if len(ids) > len(self.all_but_first):
            self.all_but_first = all_but_first(2 * len(ids))
        return [Encoded(array_of(ids), self.all_but_first[: len(ids)])]

    def close_chat(self, draft: Chat, encodings: Iterator[Encoding]) -> Result:
        """Return the documents of a row with prompts and answers."""
        documents = list[Encoded]()
        for turns in draft.documents:
            ids = [next(encodings).ids for _ in range(2 * len(turns))]
            document = self.turn_ids.document(turns, draft.opens, ids)
            if isinstance(document, Encoded):
                documents.append(document)
            elif self.turns == "joined":
                return break_error(document)
            else:  # the only document of its row
                separate = Chat([[turn] for turn in whole(turns)])
                return self.join([separate], self.tokenize([separate]))[0]
        if documents and self.opens_twice(documents[0].ids[:2].tolist()):
            return self.opening_error()
        return documents

    def opens_twice(self, ids: list[int]) -> bool:
        """Whether a document starts with two beginning-of-sequence tokens."""
        return self.bos is not None and ids[:2] == [self.bos, self.bos]

    def opening_error(self) -> RowError:
        """Return the error of a record that starts with two beginning-of-sequence tokens."""
        return RowError(
            f"starts with {self.tokenizer.bos_token} twice: the tokenizer or its chat "
            "template writes it, so take it out of the row"
        )


def break_error(index: int) -> RowError:
    """Return the error of a conversation that cannot be one document."""
    return RowError(
        f"messages[{index}]: asked for this answer, the model is given the messages before it in "
        "another way than they were learnt, so this is no continuation of one document; "
        "data.turns=auto makes a document of each answer"
    )


def repetition_in(turns: Sequence[Turn]) -> RowError | None:
    """Return the error of turns that are encoded one by one, and repeat too much; None if none."""
    lengths = [turn.kept + len(turn.prompt) + len(turn.answer) for turn in turns]
    try:
        check_letters(sum(lengths), max(lengths, default=0))
    except RowError as error:
        return error
    return None


def as_conversation(content: Answer | Conversation) -> Conversation:
    """Turn prompt and completion into a conversation of two messages."""
    if isinstance(content, Conversation):
        return content
    roles = {"user": content.prompt, "assistant": content.completion}
    return Conversation([{"role": role, "content": text} for role, text in roles.items()])
