"""One prompt, asked of the base and of the tuned model one after the other."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.console import print_line
from pipeline.device import nn
from pipeline.errors import ConfigError, printable_lines
from pipeline.generate.answers import AnswerGenerator
from pipeline.generate.greedy import Generation
from pipeline.model.network.adapters import load_adapter
from pipeline.model.network.base import open_base
from pipeline.model.network.tree import materialize

BASE, TUNED = "base", "tuned"
STANDARD_INPUT = "-"


def chosen_models(only: str) -> tuple[str, ...]:
    """Return the models that are asked.

    Args:
        only: the value of `--only`; empty where it is not given.

    Raises:
        ConfigError: when there is no such model.
    """
    if only not in ("", BASE, TUNED):
        raise ConfigError(f"--only {only}: there is no such model; write {BASE} or {TUNED}")
    return (only,) if only else (BASE, TUNED)


def asked_text(prompt: str) -> str:
    """Return what is asked; `-` reads it from standard input, without the last line feed.

    Raises:
        ConfigError: when nothing is asked, or standard input is no text in UTF-8.
    """
    if not prompt:
        raise ConfigError(
            "--prompt is missing: write --prompt TEXT, or --prompt - to read standard input"
        )
    if prompt != STANDARD_INPUT:
        return prompt
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--prompt -: standard input is no text in UTF-8 ({error})") from error


def loaded_models(
    names: Sequence[str], base: Path, dtype: str, trained: Path | None
) -> Iterator[tuple[str, nn.Module]]:
    """Load models one after the other; the tuned one is the base with what was trained on it.

    Args:
        names: of the models, the base first.
        base: models/base.
        dtype: `model.dtype`.
        trained: models/trained; None where the tuned model is not asked.
    """
    model = open_base(base, dtype).model
    for name in names:
        if name == TUNED:
            assert trained is not None
            load_adapter(model, trained)
        materialize(model)
        yield name, model


def print_answer(
    name: str, model: nn.Module, answers: AnswerGenerator, prompt: Sequence[int], alone: bool
) -> None:
    """Print an answer while it is generated; facts of it go to standard error.

    Args:
        name: of the model.
        model: that answers.
        answers: generates the answer.
        prompt: at least one token.
        alone: whether no other model is asked: then standard output has the answer and no more.
    """
    if not alone:
        print(f"{name}:", flush=True)
    answer = answers.answer(model, prompt, show)
    print("" if alone else "\n", flush=True)
    print_line(f"{name}: {facts_of(answer)}")


def show(piece: str) -> None:
    """Print a piece of an answer at once, with controls escaped."""
    print(printable_lines(piece), end="", flush=True)


def facts_of(answer: Generation) -> str:
    """Describe the length of an answer, how it ended, and its speed after the first token."""
    count = len(answer.token_ids)
    ended = "ended by the model" if answer.finish_reason == "stop" else "cut there"
    rate = f", {answer.tokens_per_second:.1f} tokens/s" if count > 1 else ""
    return f"{count} tokens, {ended}{rate}"
