"""What a user reads: `--help`, and Hydra's errors in words."""

import argparse

import pytest
from hydra._internal.utils import get_args_parser

from pipeline.config.command_line import help_as_text


def test_help_texts_are_strings_as_python_3_14_wants_them(monkeypatch):
    original = argparse.ArgumentParser.add_argument

    def strict(self, *names, **facts):
        action = original(self, *names, **facts)
        if action.help and "%" in action.help:  # what 3.14 asks of each argument it is given
            action.help % vars(action)
        return action

    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", strict)
    with pytest.raises(TypeError, match="not iterable"):
        get_args_parser()
    with help_as_text():
        assert "shell completion" in get_args_parser().format_help()
    assert argparse.ArgumentParser.add_argument is strict
