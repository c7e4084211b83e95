"""The groups of conf/: what may be chosen in each, and which keys a choice has."""

import pytest

from pipeline.config.groups import (
    choices,
    default_option,
    groups,
    keys_of_other_options,
    options,
    schema_of,
)
from pipeline.config.options import OPTIONS
from pipeline.errors import ConfigError


def test_every_group_of_a_kind_has_a_schema_for_each_option():
    for group in OPTIONS:
        assert group in groups()
        assert all(schema_of(group, option) for option in options(group))


def test_the_default_stands_first_among_the_choices():
    (optim,) = [text for text in choices(["optim"]) if text.startswith("optim=")]
    assert optim.startswith(f"optim={default_option('optim')}|")


def test_a_key_of_another_option_is_named_with_the_option():
    (problem,) = keys_of_other_options(["optim.momentum"], {"optim": "lion"})
    assert problem.startswith("optim.momentum: optim=lion has no such key; choose optim=")
    assert list(keys_of_other_options(["optim.momentum"], {"optim": "sgd"})) == []


def test_an_option_that_extends_no_schema_is_refused_with_the_line_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.config.groups.CONF", tmp_path)
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim/mine.yaml").write_text("name: mine\n")
    match = (
        r"conf/optim/mine.yaml extends no schema.\nBegin it with `defaults: \[mine_schema, _self_]`"
    )
    with pytest.raises(ConfigError, match=match):
        schema_of("optim", "mine")


def test_a_group_of_a_stage_by_hand_has_its_default_in_by_hand_yaml():
    assert default_option("generate") == "default"
    assert not [text for text in choices(["generate"]) if "generate" in text]
