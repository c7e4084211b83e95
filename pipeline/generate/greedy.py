"""Greedy generation of text, by the generator of mlx-lm."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.device import keep_open_file_limit, mx, nn
from pipeline.model.network.upstream import TokenizerWrapper

with keep_open_file_limit():
    from mlx_lm import stream_generate


@dataclass(frozen=True)
class Generation:
    """The continuation of a prompt, and how long it took.

    Attributes:
        text: the continuation, without the prompt.
        token_ids: its tokens; the last one is an end token where the model ended the text.
        finish_reason: `stop` where the model ended the text, `length` where `max_tokens` did.
        first_token_seconds: from the call to the first token; this includes reading the prompt.
        decode_seconds: from the first token to the last.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    first_token_seconds: float
    decode_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second after the first one."""
        return (len(self.token_ids) - 1) / self.decode_seconds


def generate_greedy(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompt_ids: Sequence[int],
    max_tokens: int,
    *,
    endless: bool = False,
    show: Callable[[str], None] = lambda text: None,
) -> Generation:
    """Continue a prompt with the most likely token at each step.

    Args:
        model: a causal language model; it is set to evaluation.
        tokenizer: of the model.
        prompt_ids: at least one token.
        max_tokens: how many tokens to generate at most.
        endless: whether to forbid end tokens, so that every run has the same length.
        show: is called with each piece of text as soon as it is there.
    """
    model.eval()
    pieces, token_ids, finish_reason = [], [], "length"
    started = first = time.perf_counter()
    processors = [forbid(sorted(tokenizer.eos_token_ids))] if endless else []
    stream = stream_generate(
        model,
        tokenizer,
        list(prompt_ids),
        max_tokens=max_tokens,
        logits_processors=processors,
    )
    for response in stream:
        if not token_ids:
            first = time.perf_counter()
        show(response.text)
        pieces.append(response.text)
        token_ids.append(int(response.token))
        finish_reason = response.finish_reason or finish_reason
    ended = time.perf_counter()
    return Generation("".join(pieces), token_ids, finish_reason, first - started, ended - first)


def forbid(token_ids: list[int]) -> Callable[[mx.array, mx.array], mx.array]:
    """Return a logits processor that never lets tokens be chosen."""

    def process(tokens: mx.array, logits: mx.array) -> mx.array:
        del tokens
        logits[..., mx.array(token_ids)] = -mx.inf
        return logits

    return process
