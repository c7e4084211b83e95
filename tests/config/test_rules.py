"""Every parameter has a type, a meaning and a range; all that is wrong is told at once."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipeline.config import rules
from pipeline.config.groups import CONF
from pipeline.config.keys import leaves
from pipeline.config.optimizers import OPTIMIZERS
from pipeline.config.schema import EXPORT_FORMATS
from pipeline.errors import ConfigError
from stages.params import composed

JSONL = ("data=jsonl", "data.path=rows.jsonl")


def changed(*overrides, **values):
    """Compose conf/, then set values without asking."""
    config = composed(list(overrides))
    for name, value in values.items():
        OmegaConf.update(config, name.replace("__", "."), value, merge=False)
    return config


def refusal(config, sections=None):
    with pytest.raises(ConfigError) as caught:
        rules.check_values(config, sections)
    headline, *problems = str(caught.value).splitlines()
    assert headline == "These parameters cannot be used:"
    return [problem.strip() for problem in problems]


def test_the_defaults_can_be_used():
    rules.check_values(composed([]))


def test_every_parameter_explains_itself():
    facts = {name: field.metadata for name, field in leaves() if name != "inputs"}
    assert len(facts) > 60
    assert [name for name, fact in facts.items() if len(fact["help"]) < 5] == []
    assert [name for name, fact in facts.items() if fact["help"].endswith(".")] == []


BOUNDED = [
    (name, side, sign)
    for name, field in leaves()
    for side, sign in (("minimum", -1), ("maximum", 1))
    if field.metadata and field.metadata[side] is not None
]


def test_every_number_has_both_bounds():
    numbers = [
        name
        for name, field in leaves()
        if field.type in (int, float, int | None, float | None)
        and not field.metadata["choices"]
        and None in (field.metadata["minimum"], field.metadata["maximum"])
    ]
    assert numbers == []


@pytest.mark.parametrize(("name", "side", "sign"), BOUNDED)
def test_a_bound_belongs_to_the_range_and_the_next_value_does_not(name, side, sign):
    field = dict(leaves())[name]
    bound = field.metadata[side]
    assert not list(rules.broken_rules(field, bound))
    step = 1 if "int" in str(field.type) else max(1e-9, abs(bound) * 1e-9)
    word = "at least" if sign < 0 else "at most"
    assert list(rules.broken_rules(field, bound + sign * step)) == [f"must be {word} {bound}"]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("lora.rank", 0, "must be at least 1"),
        ("seed", -1, "must be at least 0"),
        ("optim.learning_rate", float("nan"), "must be finite"),
        ("optim.learning_rate", float("inf"), "must be finite"),
        ("optim.learning_rate", "abc", "must be a number, or auto"),
        ("optim.learning_rate", "2e-4", "must be a number, or auto"),
        ("train.max_grad_norm", -1.0, "must be at least 0"),
        ("data.test_fraction", 0.95, "must be at most 0.9"),
        ("train.mode", "qlora", "must be one of lora, dora, head, full, tensors"),
        ("model.quantize_group_size", 16, "must be one of 32, 64, 128"),
        ("model.scratch.hidden_size", 4, "must be at least 8"),
    ],
)
def test_a_value_out_of_range_is_told_with_its_rule(name, value, rule):
    config = composed([])
    OmegaConf.update(config, name, value)
    assert refusal(config) == [f"{name}={value}: {rule}"]


def test_a_number_may_be_one_of_a_few():
    config = changed("model=local", "model.source=x", model__quantize_bits=3)
    assert refusal(config) == ["model.quantize_bits=3: must be one of 4, 8"]


def test_another_data_set_leaves_behind_what_the_conflicts_world_sets():
    conflicts, others = composed([]), composed(["data=stdlib"])
    for name in ("train.best", "train.batch_size", "objective.distrust.mode"):
        values = [OmegaConf.select(config, name) for config in (conflicts, others)]
        assert values[0] != values[1], name
    assert (conflicts.train.best, others.train.best) == ("conflicts", "val_loss")


@pytest.mark.parametrize(
    ("typed", "read"), [("12e4567", "inf"), ("12e45", "1.2e+46"), ("'12e45'", ""), ("77", "")]
)
def test_a_text_that_was_read_as_a_number_is_refused(typed, read):
    """Composed as DVC does it, which checks no argument as it was typed."""
    chosen = ["model=local", "model.source=a", f"model.revision={typed}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=chosen)
    config.inputs = None
    if read:
        problem = f"model.revision={read}: a text was read as this number; write it in quotes: "
        assert refusal(config) == [f"{problem}\"revision='TEXT'\""]
    else:
        rules.check_values(config)


def test_null_is_in_the_range_of_what_may_be_null():
    rules.check_values(changed(train__max_grad_norm=None, validate__documents=None))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_chosen_by_its_name_alone_is_refused(name):
    config = changed("optim=sgd", optim__name=name)
    if name == "sgd":
        rules.check_values(config)
    else:
        what = f"optim.name={name}: choose it with optim={name}, which sets its keys"
        assert refusal(config) == [what]


def test_all_problems_are_told_at_once():
    config = changed(seed=-1, lora__rank=0, train__batch_size=None, export__formats=["gguf"])
    assert refusal(config) == [
        "seed=-1: must be at least 0",
        "lora.rank=0: must be at least 1",
        "train.batch_size=null and train.batch_tokens=null: give one, and set the other to null",
        f"export.formats=['gguf']: must be some of {', '.join(EXPORT_FORMATS)}",
    ]


def test_missing_values_are_named_where_they_are_needed():
    config = changed(data__path="???", lora__rank="???")
    assert refusal(config) == [
        "data.path has no value; give one: data.path=...",
        "lora.rank has no value; give one: lora.rank=...",
    ]
    assert refusal(config, ["seed", "lora"]) == ["lora.rank has no value; give one: lora.rank=..."]
    rules.check_values(config, ["seed", "data.source"])


def test_a_missing_section_is_one_missing_value():
    config = changed(model__pretrain="???")
    assert refusal(config) == ["model.pretrain has no value; give one: model.pretrain=..."]


CONTRADICTIONS = [
    (
        [],
        {"train__num_epochs": 2.5},
        "train.num_steps=300 and train.num_epochs=2.5: give one, and set the other to null",
    ),
    (
        [],
        {"train__num_steps": None},
        "train.num_steps=null and train.num_epochs=null: give one, and set the other to null",
    ),
    (
        [],
        {"train__batch_tokens": 99},
        "train.batch_size=32 and train.batch_tokens=99: give one, and set the other to null",
    ),
    (
        [],
        {"data__validation_fraction": 0.5, "data__test_fraction": 0.5},
        "data.validation_fraction=0.5 and data.test_fraction=0.5: they leave nothing to train on",
    ),
    ([*JSONL], {"data__path": None}, "data.source=jsonl needs data.path=FILE_OR_FOLDER"),
    (
        [],
        {"data__columns": {"ask": "prompt"}},
        "data.columns={'ask': 'prompt'}: data.source=conflicts does not read it; leave it out",
    ),
    (
        ["data=stdlib"],
        {"data__format": "plain"},
        "data.format=plain: data.source=stdlib does not read it; leave it out",
    ),
    ([], {"data__path": "x"}, "data.source=conflicts does not read data.path"),
    (
        ["data=stdlib"],
        {"data__source": "conflicts"},
        "data.source=conflicts: choose it with data=conflicts, which sets its keys",
    ),
    (
        [],
        {"data__provenance__scorer": "heuristic"},
        "data.provenance.scorer=heuristic: choose it with data/provenance=heuristic",
    ),
    (
        [],
        {"validate__sample_tokens": 257},
        "validate.sample_tokens=257: the model has 256 positions "
        "(model.scratch.max_position_embeddings); ask for no more",
    ),
    (
        [],
        {"benchmark__prompt_tokens": 193},
        "benchmark.prompt_tokens=193 and benchmark.generated_tokens=64: "
        "the model has 256 positions (model.scratch.max_position_embeddings); ask for no more",
    ),
    (
        [],
        {"train__max_grad_norm": 0.0},
        "train.max_grad_norm=0.0: would make every gradient 0, so that nothing is trained; "
        "null turns clipping off",
    ),
    (
        ["data=stdlib"],
        {"train__best": "conflicts"},
        "train.best=conflicts and data.source=stdlib: only data=conflicts has contests; take "
        "train.best=val_loss",
    ),
    (
        [],
        {"data__overlap_tokens": 8},
        "data.overlap_tokens=8 and data.long_documents=truncate: only split documents overlap",
    ),
    (
        ["data.long_documents=split"],
        {"data__overlap_tokens": 31, "data__max_seq_len": 32},
        "data.overlap_tokens=31 and data.max_seq_len=32: a piece would have nothing new; the "
        "overlap must be less than 31",
    ),
    (
        [],
        {"model__source": "llama"},
        "model.source=llama does not go with this model group; choose model=tiny for a scratch "
        "model, model=local for one that exists",
    ),
    (
        ["model=local", "model.source=llama"],
        {"model__source": "scratch"},
        "model.source=scratch does not go with this model group; choose model=tiny for a scratch "
        "model, model=local for one that exists",
    ),
    (
        [],
        {"train__mode": "tensors"},
        "train.mode=tensors needs train.tensors=[NAME_OR_PATTERN,...]",
    ),
    (
        [],
        {"train__tensors": ["a", "b"]},
        "train.tensors=['a', 'b'] and train.mode=lora: they are read by train.mode=tensors only",
    ),
    (
        [],
        {"model__quantize_bits": 4},
        "model.quantize_group_size=64 does not divide model.scratch.hidden_size=96; 32, 64 or 128 "
        "must",
    ),
    (
        [],
        {"lora__targets": []},
        'lora.targets=[] and train.mode=lora: name layers, or ["*"] for all of them',
    ),
    (
        [],
        {"model__quantize_bits": 4, "model__quantize_group_size": 32, "train__mode": "full"},
        "model.quantize_bits=4 and train.mode=full: packed weights cannot be trained; use lora, "
        "dora or head",
    ),
    (
        [],
        {"export__formats": []},
        f"export.formats=[]: must be some of {', '.join(EXPORT_FORMATS)}",
    ),
    (
        [],
        {"optim__schedule": "wsd"},
        "optim.decay_fraction=null: optim.schedule=wsd needs it; give a value",
    ),
    (
        [],
        {"optim__schedule": "constant"},
        "optim.final_fraction=0.0: optim.schedule=constant does not use it; set it to null",
    ),
    (
        ["optim.schedule=wsd", "optim.decay_fraction=0.5"],
        {"optim__warmup_fraction": 0.6},
        "optim.warmup_fraction=0.6 and optim.decay_fraction=0.5: together more than the whole run",
    ),
]


@pytest.mark.parametrize(("overrides", "values", "problem"), CONTRADICTIONS)
def test_what_is_right_alone_may_be_wrong_together(overrides, values, problem):
    assert refusal(changed(*overrides, **values)) == [problem]


def test_the_alternatives_are_no_contradiction():
    rules.check_values(changed(train__batch_size=None, train__batch_tokens=99))
    rules.check_values(changed(train__num_steps=None, train__num_epochs=3))
    rules.check_values(changed(*JSONL))
    rules.check_values(
        changed("data.long_documents=split", data__overlap_tokens=30, data__max_seq_len=32)
    )
    rules.check_values(changed("model=local", "model.source=llama"))
