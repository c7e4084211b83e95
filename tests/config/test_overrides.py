"""Overrides of a run are found again, and those of a later command are put on top of them."""

import pytest

from pipeline.config.overrides import (
    FILE,
    is_sweep,
    key_in,
    on_top,
    overrides_in,
    recorded_overrides,
)
from pipeline.errors import ConfigError


def test_flags_and_what_is_of_hydra_are_no_overrides():
    arguments = ["-m", "--plan", "seed=1", "hydra.run.dir=x", "hydra/job_logging=none", "+a.b=c=d"]
    assert overrides_in(arguments) == ["seed=1", "+a.b=c=d"]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("lora.rank=3", "lora.rank"),
        ("+data.columns.a=b", "data.columns.a"),
        ("data/provenance=none", "data.provenance"),
        ("data/provenance@data.provenance=none", "data.provenance"),
        ("a=b=c", "a"),
    ],
)
def test_an_override_names_a_key_or_a_group(override, key):
    assert key_in(override) == key


@pytest.mark.parametrize(
    ("override", "expected"),
    [("a=1,2", True), ("a=range(3)", True), ("a=[1,2]", False), ("a='1,2'", False), ("a=[", False)],
)
def test_a_sweep_has_several_values(override, expected):
    assert is_sweep(override) is expected


def test_a_later_override_of_a_key_replaces_the_earlier_one():
    assert on_top(["seed=1", "lora.rank=2"], ["+lora.rank=3"]) == ["seed=1", "+lora.rank=3"]


def test_another_option_of_a_group_takes_its_keys_with_it():
    earlier = ["model=local", "model.source=x", "data=jsonl", "train.num_steps=3"]
    later = on_top(earlier, ["model=tiny"])
    assert later == ["data=jsonl", "train.num_steps=3", "model=tiny"]


def test_the_overrides_of_a_run_are_read_without_its_own_inputs(tmp_path):
    assert recorded_overrides(tmp_path) == []
    (tmp_path / ".hydra").mkdir()
    (tmp_path / FILE).write_text("- data=jsonl\n- inputs=runs/x\n- hydra.run.dir=y\n- seed=3\n")
    assert recorded_overrides(tmp_path) == ["data=jsonl", "seed=3"]
    (tmp_path / FILE).write_text("[]\n")
    assert recorded_overrides(tmp_path) == []


@pytest.mark.parametrize("text", ["- [", "7", "\0"])
def test_a_damaged_record_of_overrides_is_refused(tmp_path, text):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / FILE).write_text(text)
    message = r"overrides\.yaml is damaged, .*\nRun its stage again, or delete \.hydra/overrides"
    with pytest.raises(ConfigError, match=message):
        recorded_overrides(tmp_path)
