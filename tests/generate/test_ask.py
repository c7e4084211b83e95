"""One prompt, asked of two models."""

import inspect
import io
import sys
from types import SimpleNamespace

import pytest

from pipeline.device import mx
from pipeline.errors import ConfigError
from pipeline.generate.ask import (
    asked_text,
    chosen_models,
    facts_of,
    loaded_models,
    print_answer,
)
from pipeline.generate.greedy import Generation
from pipeline.model.network.base import load_base
from pipeline.model.network.forward import forward
from tests.support.exports import TOKENS, Workplace, largest

ANSWER = Generation("a\x1b\nb", [5, 6, 7], "stop", 0.1, 0.5)


def typed(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def test_both_models_are_asked_unless_one_is_named():
    assert chosen_models("") == ("base", "tuned")
    assert chosen_models("tuned") == ("tuned",)
    with pytest.raises(ConfigError, match="--only best: there is no such model; write base or tun"):
        chosen_models("best")


def test_a_prompt_comes_from_the_command_line_or_from_standard_input(monkeypatch):
    typed(monkeypatch, b"two\nlines\n\n")
    assert asked_text("one") == "one"
    assert asked_text("-") == "two\nlines\n"


def test_a_prompt_that_is_missing_or_no_text_is_refused_with_what_to_write(monkeypatch):
    with pytest.raises(
        ConfigError, match="--prompt is missing: write --prompt TEXT, or --prompt -"
    ):
        asked_text("")
    typed(monkeypatch, b"\xff\xfe")
    with pytest.raises(ConfigError, match="--prompt -: standard input is no text in UTF-8"):
        asked_text("-")


def test_the_tuned_model_is_the_base_with_what_was_trained(tmp_path, tiny_config):
    place = Workplace(tmp_path, tiny_config, "float32", "lora", {})
    expected = {"base": load_base(place.base, "float32").model, "tuned": place.tuned}
    seen = []
    for name, model in loaded_models(("base", "tuned"), place.base, "float32", place.trained):
        seen.append(name)
        assert largest(forward(model, TOKENS) - forward(expected[name], TOKENS)) < 1e-5
    [(name, alone)] = loaded_models(("tuned",), place.base, "float32", place.trained)
    assert mx.array_equal(forward(alone, TOKENS), forward(model, TOKENS))
    assert [*seen, name] == ["base", "tuned", "tuned"]


@pytest.mark.parametrize(
    ("alone", "expected"), [(False, "base:\na\\x1b\nb\n\n"), (True, "a\\x1b\nb\n")]
)
def test_an_answer_is_printed_piece_by_piece_and_its_facts_apart(capsys, alone, expected):
    printed = []

    def answer(model, prompt, show):
        for piece in ("a\x1b", "\nb"):
            show(piece)
            printed.append(capsys.readouterr().out)
        return ANSWER

    unchecked = inspect.unwrap(print_answer)  # without checks of types
    unchecked("base", None, SimpleNamespace(answer=answer), [1], alone)
    rest = capsys.readouterr()
    assert "".join([*printed, rest.out]) == expected
    assert all(printed)  # at once, and not when the answer is there
    assert rest.err == "base: 3 tokens, ended by the model, 4.0 tokens/s\n"


def test_that_an_answer_was_cut_is_said():
    assert facts_of(Generation("a", [5], "length", 0.1, 0.0)) == "1 tokens, cut there"
