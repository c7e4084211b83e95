"""What models answer: asked as in training, and stopped where an answer ends."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.data.rows.fields import RowError
from pipeline.data.rows.records import Answer, Record
from pipeline.data.tokenize.encode import Encoder
from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.device import nn
from pipeline.errors import ConfigError, report_problems
from pipeline.external.paths import is_utf8
from pipeline.generate.greedy import Generation, generate_greedy
from pipeline.model.limits import text_limit
from pipeline.model.network import upstream
from pipeline.model.source.folder import read_config

ANY_ANSWER = "a"


class AnswerGenerator:
    """Generates the answers of models that share a tokenizer.

    A prompt has the tokens that it has in training, because the same encoder makes them. An answer
    ends at an end token of the model, or at the token that closes answers in training.

    Attributes:
        tokenizer: of the models, with these end tokens.
        limit: the longest text that the models take.
    """

    def __init__(self, base: Path, max_tokens: int) -> None:
        """Load the tokenizer, with its chat template.

        Args:
            base: models/base.
            max_tokens: of an answer.
        """
        self.encoder, self.max_tokens = Encoder(load_tokenizer(base)), max_tokens
        self.tokenizer = upstream.load_tokenizer(base)
        if self.encoder.closing:
            self.tokenizer.add_eos_token(self.encoder.closing)
        self.limit = text_limit(read_config(base))

    def prompts(self, texts: Mapping[str, str]) -> list[list[int]]:
        """Return the tokens that ask for an answer to each text, in the chat template if any.

        Args:
            texts: by what a message calls them.

        Raises:
            ConfigError: with each text that cannot be asked.
        """
        found = [self.prompt_of(text) for text in texts.values()]
        problems = [
            f"{name}: {prompt}"
            for name, prompt in zip(texts, found, strict=True)
            if isinstance(prompt, str)
        ]
        headline = "These prompts cannot be asked:"
        report_problems(ConfigError, headline, problems, "Write something else, or less.")
        return [prompt for prompt in found if isinstance(prompt, list)]

    def prompt_of(self, text: str) -> list[int] | str:
        """Return the tokens that ask for an answer to a text, or why it cannot be asked."""
        if not text:
            return "it is empty"
        if not is_utf8(text):
            return "it is no text in UTF-8"
        found = self.encoder.encode([Record(Answer(text, ANY_ANSWER))])[0]
        if isinstance(found, RowError):
            return str(found)
        [document] = found
        prompt = document.ids[: int(np.argmax(document.target_mask))].tolist()
        if not self.has_room(prompt):
            return f"it has {len(prompt)} tokens, and {self.limit.words}"
        return prompt

    def room_after(self, prompt: Sequence[int]) -> int:
        """Count the tokens that an answer may have; less than 1 where there is no room for one."""
        longest = self.limit.tokens
        return self.max_tokens if longest is None else min(self.max_tokens, longest - len(prompt))

    def has_room(self, prompt: Sequence[int]) -> bool:
        """Whether there is room for an answer after a prompt."""
        return self.room_after(prompt) > 0

    def answer(
        self,
        model: nn.Module,
        prompt: Sequence[int],
        show: Callable[[str], None] = lambda text: None,
    ) -> Generation:
        """Let a model answer a prompt for which there is room.

        Args:
            model: one of those that share the tokenizer.
            prompt: at least one token.
            show: is called with each piece of text as soon as it is there.
        """
        room = self.room_after(prompt)
        return generate_greedy(model, self.tokenizer, prompt, room, show=show)

    def text_of(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, without control tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
