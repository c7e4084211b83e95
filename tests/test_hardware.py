"""No hardware preset promises what cannot fit: each is planned for the models it names."""

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.model.network.adapters import AdapterSettings
from pipeline.train.finetune import optim_settings
from pipeline.train.plan.graph import GraphRequest, plan_graph
from pipeline.train.plan.report import GB, make_plan
from pipeline.train.plan.request import PlanRequest
from stages.params import composed
from tests.conftest import ROOT
from tests.support.published import write_config

STAGES = ["weights", "train", "export", "validate", "benchmark"]
PRESETS = sorted(path.stem for path in (ROOT / "conf/hardware").glob("*.yaml"))
QUICK = ["cpu", "mac_16gb"]
TYPES = {"4 bits": ("bfloat16", 4), "bfloat16": ("bfloat16", None), "float32": ("float32", None)}


def comment(preset):
    """Read the comment of a preset, in one line."""
    text = (ROOT / f"conf/hardware/{preset}.yaml").read_text()
    return " ".join(re.findall(r"^# (?!@)(.*)$", text, re.M))


def named_class(preset):
    """Read from a preset's comment which model it is for, and in which type."""
    found = re.search(r"models of \S+ in (4 bits|bfloat16|float32), as (\S+)\.", comment(preset))
    assert found, f"{preset}: the comment names no model"
    return TYPES[found[1]], found[2]


def request_of(preset, folder, **changes):
    """Ask for the plan of a preset with documents as long as it allows.

    The batches of the validation are as large as the micro-batches.
    """
    (dtype, bits), model = named_class(preset)
    config = composed([f"hardware={preset}"])
    lora = {**config.lora, "targets": tuple(config.lora.targets)}
    request = PlanRequest(
        folder=write_config(folder / model, model),
        dtype=dtype,
        adapter=AdapterSettings(config.train.mode, **lora),
        optim=optim_settings(config, 0),
        batch_size=config.train.batch_size,
        grad_accumulation_steps=config.train.grad_accumulation_steps,
        longest_tokens=config.data.max_seq_len,
        arrangement="bucketed" if preset == "cpu" else "packed",
        grad_checkpoint=config.train.grad_checkpoint,
        base_bits=bits,
    )
    return dataclasses.replace(request, validation_batch_tokens=request.tokens, **changes)


def verdict(request, limit_gb):
    """Plan every stage, and give those that do not fit."""
    plan = make_plan(request)
    assert plan.problem == ""
    asked = GraphRequest(2, request.longest_tokens, 10**6, Path(), Path())
    stages = plan_graph(plan, 0, asked)
    assert [stage.name for stage in stages] == STAGES
    too_large = [stage for stage in stages if stage.memory_bytes > limit_gb * GB]
    return ", ".join(f"{stage.name}: {stage.memory_bytes / GB:.1f} GB" for stage in too_large)


def judge(folder, presets, **changes):
    """Give the verdict on each preset."""
    limits = {name: composed([f"hardware={name}"]).train.memory_limit_gb for name in presets}
    return {
        name: verdict(request_of(name, folder, **changes), limit) for name, limit in limits.items()
    }


def judged(folder, presets, **changes):
    """Judge in a process of its own: the checks of types that tests switch on take minutes."""
    code = "import json, sys, pathlib, tests.test_hardware as test\n"
    code += "folder, presets, changes = map(json.loads, sys.argv[1:])\n"
    code += "print(json.dumps(test.judge(pathlib.Path(folder), presets, **changes)))"
    arguments = map(json.dumps, (str(folder), presets, changes))
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def fitting(presets, *marks):
    return [pytest.param(list(presets), id=" ".join(presets), marks=marks)]


@pytest.mark.parametrize(
    "presets", fitting(QUICK) + fitting(sorted({*PRESETS} - {*QUICK}), pytest.mark.exhaustive)
)
def test_every_preset_fits(tmp_path, presets):
    assert judged(tmp_path, presets) == dict.fromkeys(presets, "")


@pytest.mark.exhaustive
def test_without_recomputation_some_would_not_fit_as_their_comments_say(tmp_path):
    said = [name for name in PRESETS if "Without grad_checkpoint" in comment(name)]
    assert said == ["mac_128gb", "mac_192gb", "mac_64gb"]
    assert all(judged(tmp_path, said, grad_checkpoint=False).values())


@pytest.mark.parametrize("preset", PRESETS)
def test_a_limit_leaves_room_for_the_rest_of_the_machine(preset):
    limit_gb = composed([f"hardware={preset}"]).train.memory_limit_gb
    memory_gb = int(re.search(r"\d+", comment(preset))[0])
    assert 0.7 * memory_gb <= limit_gb <= 0.95 * memory_gb


def test_the_presets_of_a_larger_machine_train_no_less():
    config = {name: composed([f"hardware={name}"]) for name in PRESETS if name.startswith("mac")}
    ordered = sorted(config.values(), key=lambda each: each.train.memory_limit_gb)
    for less, more in itertools.pairwise(ordered):
        assert less.lora.rank <= more.lora.rank
        assert less.data.max_seq_len <= more.data.max_seq_len


@pytest.mark.parametrize("preset", PRESETS)
def test_scale_is_two_everywhere(preset):
    lora = composed([f"hardware={preset}"]).lora
    assert lora.alpha == 2 * lora.rank


def test_a_preset_wins_over_the_groups_and_loses_to_the_command_line():
    usual, chosen = composed([]), composed(["hardware=mac_16gb", "lora.rank=3"])
    assert chosen.train.batch_size == 16 != usual.train.batch_size
    assert chosen.train.grad_accumulation_steps == 16
    assert chosen.lora.rank == 3
    assert composed(["hardware=mac_16gb", "experiment=smoke"]).train.num_steps == 12


def test_no_preset_is_the_default():
    assert composed([]).train.memory_limit_gb is None
