"""Names of parameters: those there are, those an option has, and the nearest to a wrong one."""

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config import keys, rules
from pipeline.config.keys import flat
from pipeline.config.options import OPTIONS, HuggingFace
from pipeline.errors import ConfigError
from stages.params import composed


def test_leaves_have_dotted_names():
    assert dict(flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None, "f": {}})) == {
        "a.b": 1,
        "a.c.d": [2],
        "e": None,
    }


def test_known_names_are_sections_and_keys():
    known = keys.known_names()
    assert {"seed", "lora", "lora.rank", "data.conflicts", "model.scratch.vocab_size"} <= known
    assert not known & {"", "hydra", "lora.", "rank"}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("lora.rnak", "lora.rank"),
        ("lora.ranks", "lora.rank"),
        ("rank", "lora.rank"),
        ("train.learning_rate", "optim.learning_rate"),
        ("model.vocab_size", "model.scratch.vocab_size"),
        ("train.steps_per_evaluation", "train.steps_per_eval"),
        ("model.scratch.vocabsize", "model.scratch.vocab_size"),
        ("sed", "seed"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest(wrong, right):
    match = rf"no such parameter:\n  unknown key {wrong}; did you mean {right}\?\n`--help` lists"
    with pytest.raises(ConfigError, match=match):
        keys.check_known([wrong])


def test_a_key_like_no_other_is_only_unknown():
    with pytest.raises(ConfigError, match=r"unknown key xyzzy\n"):
        keys.check_known(["lora.rank", "xyzzy"])


def test_every_unknown_key_is_told():
    with pytest.raises(ConfigError, match=r"(?s)unknown key lora\.rnak;.*unknown key sed;"):
        keys.check_known(["lora.rnak", "lora.rank", "sed"])


@pytest.mark.parametrize(
    ("name", "sections", "expected"),
    [
        ("lora.rank", ["lora"], True),
        ("lora.rank", ["lora.rank"], True),
        ("lora", ["lora.rank"], False),
        ("lora_two.rank", ["lora"], False),
        ("lora.rank", [], False),
    ],
)
def test_inside_is_by_whole_names(name, sections, expected):
    assert keys.inside(name, sections) is expected


def test_keys_without_an_effect_are_keys():
    assert keys.known_names() >= rules.WITHOUT_EFFECT | rules.ONLY_WHETHER


# Options


def test_the_parameters_of_every_option_are_known():
    named = [name for name, _ in keys.leaves()]
    assert len(named) == len(set(named))
    assert {"optim.momentum", "optim.beta2", "benchmark.peers.rank"} <= set(named)
    assert {"data.huggingface.split", "data.conflicts.num_contests"} <= set(named)
    assert {"model.scratch.vocab_size", "model.pretrain.num_steps"} <= set(named)


CHOICES = [
    (["data=huggingface", "data.huggingface.name=x"], "data", "huggingface"),
    (["data=stdlib"], "data", "jsonl"),
    (["data=conflicts"], "data", "conflicts"),
    (["model=local", "model.source=x"], "model", "folder"),
    (["benchmark=peers"], "benchmark", "peers"),
    *((["optim=" + name], "optim", name) for name in OPTIONS["optim"]),
]


@pytest.mark.parametrize(("overrides", "group", "option"), CHOICES)
def test_plain_values_get_the_types_of_the_option_that_made_them(overrides, group, option):
    config = composed(overrides)
    plain = OmegaConf.create(OmegaConf.to_container(config))
    found = keys.typed(plain)
    assert OmegaConf.get_type(found[group]) is OPTIONS[group][option]
    assert OmegaConf.get_type(config[group]) is OPTIONS[group][option]
    assert found == config


def test_a_nested_section_is_typed_as_well():
    plain = OmegaConf.create(
        OmegaConf.to_container(composed(["data=huggingface", "data.huggingface.name=x"]))
    )
    assert OmegaConf.get_type(keys.typed(plain).data.huggingface) is HuggingFace


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optim.beta1", "fast", "could not be converted to Float"),
        ("optim.nesterov", True, "Key 'nesterov' not in 'AdamW'"),
        ("lora.rnak", 3, "Key 'rnak' not in 'Lora'"),
    ],
)
def test_plain_values_that_no_option_has_are_refused(name, value, message):
    plain = OmegaConf.create(OmegaConf.to_container(composed([])))
    OmegaConf.update(plain, name, value)
    with pytest.raises(OmegaConfBaseException, match=message):
        keys.typed(plain)
