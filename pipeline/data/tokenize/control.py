"""Control tokens that rows hold as text, which the tokenizer reads as the tokens."""

import re

from transformers import PreTrainedTokenizerFast

from pipeline.data.rows.fields import RowError, strings_in
from pipeline.data.rows.records import Answer, Conversation, Text


class ControlTokens:
    """Finds the control tokens of a tokenizer in what rows say.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        tokens = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        self.pattern = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
        self.beginnings = tuple({token[0] for token in tokens})  # much faster to look for

    def count_in(self, content: Text | Answer | Conversation) -> int:
        """Count the control tokens in a row, those in its tools included."""
        if isinstance(content, Text):
            return len(self.found(content.text))
        if isinstance(content, Answer):
            return len(self.found(content.prompt)) + len(self.found(content.completion))
        texts = strings_in([content.messages, content.tools])
        return sum(len(self.found(text)) for text in texts)

    def found(self, text: str) -> list[str]:
        """List the control tokens in a text."""
        if not any(beginning in text for beginning in self.beginnings):
            return []
        return self.pattern.findall(text)

    def refuse(self, content: Text | Answer | Conversation) -> None:
        """Refuse a row that holds a control token.

        Raises:
            RowError: with how many there are.
        """
        if count := self.count_in(content):
            raise RowError(
                f"the row holds control tokens of the model as text ({count}); take them out, or "
                "set data.control_tokens=keep to have them read as the tokens"
            )
