"""The benchmark: what it counts. Only the stage measures how fast anything is."""

from pipeline.benchmark.throughput import Workload, training_speed
from pipeline.model.network.adapters import AdapterSettings, apply, make_trainable
from pipeline.model.network.tree import named_arrays
from pipeline.model.scratch import initialize


def test_training_is_timed_on_whole_steps_and_only_trains_what_the_mode_says(
    tiny_config, make_store
):
    model = initialize(tiny_config, seed=0)
    config = apply(model, AdapterSettings("lora", 2, 4.0, 0.0, None, ("*",)), seed=0)
    make_trainable(model, config)
    frozen = {
        name: value
        for name, value in named_arrays(model.parameters()).items()
        if not name.endswith(("lora_a", "lora_b"))
    }
    work = Workload(4, None, "bucketed", 0, 2, True, 3, 2, 8, 4)
    metrics = training_speed(model, make_store(), work)
    assert metrics["train_tokens_per_second"] >= metrics["train_targets_per_second"] > 0
    assert 0 < metrics["train_occupancy"] <= 1
    assert metrics["train_step_seconds"] > 0
    for name, value in named_arrays(model.parameters()).items():
        if name in frozen:
            assert (value == frozen[name]).all(), name
