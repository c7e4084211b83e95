"""The benchmark: what it counts. How fast anything is, is measured by the stage alone."""

import pytest

from pipeline.benchmark.throughput import (
    FLOPS_PER_PARAMETER,
    Workload,
    matmul_parameters,
    training_speed,
)
from pipeline.device import nn
from pipeline.model.adapters import AdapterSettings, apply, make_trainable
from pipeline.model.scratch import initialize
from pipeline.model.tree import named_arrays


def by_formula(config, tied):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    block = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inner
    return config["num_hidden_layers"] * block + hidden * config["vocab_size"]


@pytest.mark.parametrize("tied", [True, False])
def test_matmul_parameters_by_formula(tiny_config, tied):
    config = {**tiny_config, "tie_word_embeddings": tied}
    model = initialize(config, seed=0)
    assert matmul_parameters(model) == by_formula(config, tied)


def test_adapters_and_quantisation_do_not_change_the_bound(tiny_config):
    config = {**tiny_config, "hidden_size": 64, "intermediate_size": 64}
    model = initialize(config, seed=0)
    plain = matmul_parameters(model)
    nn.quantize(model, group_size=32, bits=4, class_predicate=lambda name, module: "proj" in name)
    assert matmul_parameters(model) == plain


def test_flops_are_those_of_the_roofline():
    assert FLOPS_PER_PARAMETER == {"lora": 4, "full": 6}


def test_training_is_timed_on_whole_steps_and_only_trains_what_the_mode_says(
    tiny_config, make_store
):
    model = initialize(tiny_config, seed=0)
    apply(model, AdapterSettings("lora", 2, 4.0, 0.0, None, ("*",)), seed=0)
    make_trainable(model, "lora")
    frozen = {
        name: value
        for name, value in named_arrays(model.parameters()).items()
        if not name.endswith(("lora_a", "lora_b"))
    }
    work = Workload("lora", 4, None, "bucketed", 0, 3, 2, 8, 4)
    metrics = training_speed(model, make_store(), work)
    assert metrics["train_tokens_per_second"] >= metrics["train_targets_per_second"] > 0
    assert 0 < metrics["train_occupancy"] <= 1
    assert metrics["train_step_seconds"] > 0
    for name, value in named_arrays(model.parameters()).items():
        if name in frozen:
            assert (value == frozen[name]).all(), name
