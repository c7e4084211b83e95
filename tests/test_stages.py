"""The whole graph, as a user runs it: a real DVC in a copy of the repository."""

import csv
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from pipeline.config.composition import composed
from pipeline.config.outputs import seal
from pipeline.config.stage_paths import Paths
from pipeline.device import is_cpu
from pipeline.errors import PipelineError
from pipeline.external.initial import initial_fingerprint
from pipeline.files import sha256_file, write_json
from stages import benchmark, train, validate
from tests.support.documents import documented_commands
from tests.support.plans import write_llama
from tests.support.repository import ENVIRONMENT, STAGES, ran, read, run, stage, wait_for


def test_every_output_is_there(smoke):
    for name in (
        "data/prepared/train/tokens.bin",
        "data/prepared/tokenizer/tokenizer.json",
        "data/prepared/conflicts.jsonl",
        "models/base/manifest.json",
        "models/base/model.safetensors",
        "models/trained/adapters.safetensors",
        "models/trained/adapter_config.json",
        "models/trained/best/adapters.safetensors",
        "models/export/adapter/adapters.safetensors",
        "models/export/fused/model.safetensors",
        "models/export/fused/tokenizer.json",
        "models/validation/samples.jsonl",
        "models/validation/conflicts.jsonl",
        "models/validation/documents.jsonl",
        "plots/lengths.csv",
        "plots/memory.png",
        "plots/overview.png",
        "plots/peers.csv",
        "plots/peers.png",
    ):
        assert (smoke / name).stat().st_size > 0, name


@pytest.mark.parametrize(
    "name",
    [
        "prepare_machine",
        "weights_machine",
        "train_machine",
        "export_machine",
        "validate_machine",
        "benchmark",
    ],
)
def test_every_stage_measures_its_time_and_memory(smoke, name):
    metrics = read(smoke, name)
    assert metrics["stage_seconds"] > 0
    assert 3e7 < metrics["peak_footprint_bytes"] <= metrics["peak_resident_bytes"]
    if name.endswith("machine") and name != "prepare_machine":
        assert metrics["peak_footprint_bytes"] > metrics["peak_memory_bytes"] > 0


@pytest.mark.skipif(not is_cpu(), reason="16 bits are slow only on a CPU")
@pytest.mark.parametrize("main", [benchmark.main, validate.main])
def test_a_slow_type_is_warned_about_before_anything_is_read(main, monkeypatch, caplog):
    def read(self, name):
        assert "Set model.dtype=float32." in caplog.text
        raise InterruptedError(name)

    monkeypatch.setattr(Paths, "read", read)
    config = OmegaConf.create({"model": {"dtype": "bfloat16"}, "benchmark": {}})
    with pytest.raises(InterruptedError):
        main.__wrapped__(config, Paths(Path()))


def test_a_beginning_that_has_changed_since_params_is_refused(tmp_path):
    for name in ("adapter_config.json", "adapters.safetensors"):
        (tmp_path / name).write_text("x")
    config = OmegaConf.create({"train": {"init_from": str(tmp_path)}, "inputs": {}})
    config.inputs.init_from = initial_fingerprint(config)
    (tmp_path / "adapters.safetensors").write_text("y")
    with pytest.raises(
        PipelineError, match=r"params.yaml was written:\n  adapters.safetensors: dif"
    ):
        train.main.__wrapped__(config, Paths(tmp_path))


def test_checkpoints_of_finished_runs_are_gone(smoke):
    assert not list((smoke / ".checkpoints").glob("*/step-*"))


def test_train_metrics_are_complete(smoke):
    metrics = read(smoke, "train")
    names = (
        "train_loss val_loss best_val_loss best_step num_steps num_targets num_tokens "
        "skipped_steps inexact learning_rate trainable_parameters total_parameters "
        "conflicts_primary_share conflicts_primary_share_low conflicts_primary_share_high "
        "conflicts_primary_share_n"
    )
    machine = (
        "peak_memory_bytes predicted_peak_memory_bytes memory_floor_bytes peak_footprint_bytes "
        "peak_resident_bytes memory_limit_bytes leak_bytes_per_step stage_seconds recoveries "
        "reload_seconds prefix"
    )
    assert not set(names.split()) - metrics.keys()
    assert read(smoke, "train_machine").keys() == set(machine.split())
    assert 0 < metrics["num_targets"] <= metrics["num_tokens"]
    assert metrics["num_steps"] == 12
    assert metrics["conflicts_primary_share_n"] == 80
    with (smoke / "plots/train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    with (smoke / "plots/validation.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert (int(last["step"]), float(last["val_loss"])) == (12, metrics["val_loss"])


def test_the_figures_that_people_compare_are_few(smoke):
    summary, machine = read(smoke, "summary"), read(smoke, "machine")
    assert len(summary) + len(machine) <= 12
    results, both = read(smoke, "train"), read(smoke, "validate")["held_out"]
    assert summary["validation_loss"] == results["val_loss"]
    assert summary["tuned_loss"] == both["tuned"]["loss"]
    assert "conflicts_difference" in summary
    assert 0 < machine["targets_per_second"] <= machine["tokens_per_second"]
    (shown,) = json.loads(run(smoke, "dvc", "metrics", "show", "--json").stdout).values()
    assert shown["data"] == {
        "metrics/summary.json": {"data": summary},
        "metrics/machine.json": {"data": machine},
    }


def test_a_scratch_model_starts_at_the_loss_of_guessing(smoke):
    metrics = read(smoke, "weights")
    assert metrics["pretrain_first_loss"] == pytest.approx(
        metrics["pretrain_uniform_loss"], rel=0.02
    )


def test_exports_agree_with_what_was_trained(smoke):
    metrics = read(smoke, "export")
    assert metrics["adapter"]["max_abs_logit_difference"] == 0
    for name in ("adapter", "fused"):
        part = metrics[name]
        limit = 2e-5 * max(part["logit_std"], part["adapter_effect"])
        assert part["max_abs_logit_difference"] <= limit
        assert part["adapter_effect"] > 100 * part["max_abs_logit_difference"]


def test_validation_has_n_and_intervals(smoke):
    metrics = read(smoke, "validate")
    contest = metrics["conflicts"]["contest"]
    assert contest["n"] == 80
    for name in ("base", "tuned"):
        assert contest[name]["low"] <= contest[name]["share"] <= contest[name]["high"]
    assert set(metrics["conflicts"]) == {
        "contest",
        "two_primary",
        "two_authority",
        "mass_on_options",
    }
    held_out = metrics["held_out"]
    assert held_out["base"]["perplexity_low"] < held_out["base"]["perplexity"]
    assert contest["tuned"]["share"] == read(smoke, "train")["conflicts_primary_share"]


def test_the_benchmark_names_the_machine_and_the_blas(smoke):
    metrics = read(smoke, "benchmark")
    assert metrics["machine"]["blas"]
    assert 0 < metrics["roofline_share"] < 1
    assert metrics["generated_tokens"] == 8


def test_the_second_repro_does_nothing(smoke):
    assert "up to date" in run(smoke, "dvc", "repro").stdout
    assert "up to date" in run(smoke, "dvc", "status").stdout


def test_what_an_edit_reruns(smoke):
    """A comment reruns nothing but params; the rank does not prepare or pretrain again.

    Another interval between reloads changes what tells of the machine, and no result.
    """
    file = smoke / "conf/lora/default.yaml"
    text = file.read_text()
    file.write_text(f"# a comment\n{text}")
    assert ran(run(smoke, "dvc", "repro")) == ["params"]
    file.write_text(text.replace("rank: 8", "rank: 2"))
    assert ran(run(smoke, "dvc", "repro")) == [
        "params",
        "train",
        "export",
        "validate",
        "benchmark",
    ]
    file.write_text(text)
    interval = smoke / "conf/train/default.yaml"
    often = interval.read_text().replace("reload_interval_steps: 0", "reload_interval_steps: 5")
    interval.write_text(often)
    reloaded = run(smoke, "dvc", "repro")
    assert ran(reloaded) == ["params", "train"], "figures of the machine concern no other stage"
    assert read(smoke, "machine")["reloads"] == 2
    run(smoke, "git", "checkout", "--quiet", "conf")
    back = run(smoke, "dvc", "repro")
    assert "Stage 'train' is cached" in back.stdout
    assert read(smoke, "train")["trainable_parameters"] == 4 * trainable_parameters(smoke, 2)
    run(smoke, "git", "checkout", "--quiet", ".")
    run(smoke, "dvc", "checkout", "--quiet")


def trainable_parameters(folder, rank):
    """Count by the formula: rank · (inputs + outputs) of every linear layer."""
    shape = json.loads((folder / "models/base/config.json").read_text())
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    head = hidden // shape["num_attention_heads"]
    kv = head * shape["num_key_value_heads"]
    attention = 2 * (hidden + hidden) + 2 * (hidden + kv)
    return rank * shape["num_hidden_layers"] * (attention + 3 * (hidden + inner))


def test_a_run_by_hand_touches_nothing_that_dvc_tracks(smoke):
    done = stage(smoke, "train", "lora.rank=4", "train.num_steps=3", "hydra.run.dir=runs/hand")
    assert "written to runs/hand; a later stage reads it with inputs=runs/hand" in done.stderr
    weights = load_file(smoke / "runs/hand/models/trained/adapters.safetensors")
    assert {value.shape[1] for name, value in weights.items() if name.endswith("lora_a")} == {4}
    assert json.loads((smoke / "runs/hand/metrics/train.json").read_text())["num_steps"] == 3
    assert "up to date" in run(smoke, "dvc", "status").stdout
    stage(smoke, "export", "inputs=runs/hand", "hydra.run.dir=runs/exported")
    exported = load_file(smoke / "runs/exported/models/export/adapter/adapters.safetensors")
    assert all(np.array_equal(exported[name], value) for name, value in weights.items())
    stage(
        smoke,
        "validate",
        "inputs=runs/hand",
        "hydra.run.dir=runs/validated",
        "validate.num_samples=1",
    )
    assert (smoke / "runs/validated/plots/overview.png").exists()
    metrics = json.loads((smoke / "runs/validated/metrics/validate.json").read_text())
    assert metrics["held_out"]["split"] == "test"


@pytest.fixture(scope="module")
def own(smoke, tmp_path_factory):
    """Rows and a model of one's own, as arguments."""
    folder = tmp_path_factory.mktemp("own")
    rows = [{"prompt": f"What follows {n}?", "completion": f" It is {n + 1}."} for n in range(80)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(smoke / "models/base", folder / "model")
    places = [f"data.path={folder}/rows.jsonl", f"model.source={folder}/model"]
    return ["data=jsonl", "model=local", *places, "train.num_steps=2", "train.steps_per_eval=2"]


def test_one_line_trains_on_own_rows_and_the_next_finds_what_it_made(smoke, own):
    shutil.rmtree(smoke / "runs/train", ignore_errors=True)
    first = stage(smoke, "train", *own).stderr
    assert first.count(" first\n") == 2
    for line in ("prepare: 80 rows -> 7", "weights: 29 tensors", "train: 2 steps, loss "):
        assert line in first
    (run_folder,) = (smoke / "runs/train").iterdir()
    log = (run_folder / "train.log").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\d \S+  train 2/2  loss ", log, re.MULTILINE)
    assert f"python -m stages.generate inputs=runs/train/{run_folder.name} --prompt" in log
    second = stage(smoke, "train", *own, "lora.rank=2").stderr
    assert second.count(", made before\n") == 2
    assert " first\n" not in second
    stage(smoke, "validate", "inputs=latest", "hydra.run.dir=runs/latest")
    config = OmegaConf.load(smoke / "runs/latest/.hydra/config.yaml")
    assert (config.lora.rank, config.data.source) == (2, "jsonl")
    assert "runs/train/" in config.inputs
    assert "up to date" in run(smoke, "dvc", "status").stdout


def test_own_rows_get_nothing_of_the_built_in_world(smoke, own):
    done = stage(smoke, "train", *own, "--cfg", "job").stdout
    config, default = OmegaConf.create(done), composed([])
    assert config.objective.distrust.mode == "none" != default.objective.distrust.mode
    assert config.train.batch_size == 4 != default.train.batch_size
    assert config.train.best == "val_loss" != default.train.best
    assert config.data.conflicts == config.model.scratch == {}


def test_what_contradicts_a_named_run_is_refused(smoke, own):
    stage(smoke, "train", *own, "hydra.run.dir=runs/one")
    done = stage(smoke, "validate", "inputs=runs/one", "data.max_seq_len=16", check=False)
    assert done.returncode == 1
    assert "inputs=runs/one: its outputs were made with other parameters:" in done.stderr
    assert "data.max_seq_len: None in " in done.stderr


def test_a_prompt_is_answered_by_the_base_and_by_the_tuned_model(smoke):
    asked = ("--prompt", "How was the Bosavel mill painted?", "generate.max_tokens=8")
    both = stage(smoke, "generate", *asked)
    assert re.fullmatch(r"base:\n.+\n\ntuned:\n.+\n\n", both.stdout, re.DOTALL)
    facts = re.findall(
        r"^(\w+): (\d) tokens, (?:cut there|ended by the model), ", both.stderr, re.M
    )
    assert [name for name, _ in facts] == ["base", "tuned"]
    assert max(int(count) for _, count in facts) <= 8
    command = [sys.executable, "-m", "stages.generate", "--prompt", "-", "--only=tuned", asked[2]]
    settings = {"cwd": smoke, "env": ENVIRONMENT, "capture_output": True, "text": True}
    one = subprocess.run(command, input=asked[1] + "\n", check=True, **settings)
    assert both.stdout.endswith(f"tuned:\n{one.stdout}\n")


def test_a_sweep_writes_one_table(smoke):
    done = stage(
        smoke,
        "train",
        "-m",
        "lora.rank=2,4",
        "train.reload_interval_steps=5,10",
        "hydra.sweep.dir=runs/sweep",
    )
    table = (smoke / "runs/sweep/table.md").read_text()
    assert table.strip() in done.stdout
    with (smoke / "runs/sweep/table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["lora.rank"], row["train.reload_interval_steps"]) for row in rows] == [
        ("2", "5"),
        ("2", "10"),
        ("4", "5"),
        ("4", "10"),
    ]
    assert [row["reloads"] for row in rows] == ["2", "1", "2", "1"]
    losses = [row["val_loss"] for row in rows]
    assert losses[0] == losses[1] != losses[2] == losses[3]
    assert "conflicts_primary_share" in rows[0]


def test_a_sweep_goes_through_frozen_blocks_once(smoke):
    overrides = ["lora.num_layers=1", "train.num_steps=4", "hydra.sweep.dir=runs/prefix"]
    stage(smoke, "train", "-m", "lora.rank=2,4", *overrides)
    facts = [read(smoke / f"runs/prefix/{number}", "train_machine")["prefix"] for number in (0, 1)]
    assert facts[0]["stores"] == facts[1]["stores"]
    assert facts[0]["cache_hit_rate"] < facts[1]["cache_hit_rate"] == 1
    assert facts[1]["cache_bytes"] > 0
    assert all((smoke / "models/prefix" / name).is_dir() for name in facts[0]["stores"].values())
    assert "models/prefix" not in run(smoke, "git", "status", "--porcelain", "-uall").stdout
    assert read(smoke, "train_machine")["prefix"]["frozen_blocks"] == 0


@pytest.mark.exhaustive
def test_a_clone_without_a_cache_gets_the_same_results(smoke, tmp_path):
    """Git has all results; what comes out anew is what tells of the machine."""
    run(tmp_path, "git", "clone", "--quiet", str(smoke), "clone")
    clone = tmp_path / "clone"
    before = run(clone, "dvc", "metrics", "show").stdout
    assert "conflicts_difference" in before
    assert ran(run(clone, "dvc", "repro")) == list(STAGES[1:])
    changed = run(clone, "git", "status", "--porcelain").stdout.split()[1::2]
    assert {*changed} <= {"dvc.lock", "metrics/machine.json", "plots/memory.png"}
    assert read(clone, "benchmark")["roofline_share"] > 0
    difference = run(clone, "dvc", "metrics", "diff").stdout
    assert "tokens_per_second" in difference
    assert "_loss" not in difference


@pytest.mark.exhaustive
def test_an_experiment_is_compared_with_what_it_was_made_from(smoke):
    run(smoke, "dvc", "exp", "run", "-n", "narrow", "-S", "lora.rank=4")
    difference = run(smoke, "dvc", "metrics", "diff").stdout
    line = next(line for line in difference.splitlines() if " validation_loss" in line)
    assert "metrics/summary.json" in line
    run(smoke, "git", "reset", "--quiet", "--hard")
    run(smoke, "dvc", "checkout", "--quiet")
    text = run(smoke, sys.executable, "-m", "tools.compare", "HEAD", "narrow").stdout
    rows = [line.split() for line in text.splitlines()]
    assert ["lora.rank", "8", "4"] in rows
    assert ["base_loss", *2 * [f"{read(smoke, 'summary')['base_loss']:.4g}"], "0"] in rows
    assert "of 2 answers to the same prompts differ." in text
    assert max(map(len, text.splitlines())) <= 160
    refused = run(smoke, sys.executable, "-m", "tools.compare", "HEAD", "nowhere", check=False)
    assert refused.returncode == 1
    assert re.search(
        r"nowhere: is neither the folder of a run nor a revision .*\n`dvc exp list`", refused.stderr
    )


@pytest.mark.exhaustive
def test_the_table_of_four_experiments_fits(smoke):
    """README's command shows what was varied beside few figures."""
    command = next(words for words in documented_commands() if words.startswith("dvc exp show"))
    for rank in (2, 6, 10):
        for name in ("summary", "machine"):
            figures = {key: value * rank for key, value in read(smoke, name).items()}
            write_json(smoke / f"metrics/{name}.json", figures)
        params = (smoke / "params.yaml").read_text().replace("rank: 8", f"rank: {rank}")
        (smoke / "params.yaml").write_text(params)
        run(smoke, "dvc", "exp", "save", "--force", "-n", f"a-long-name-{rank}")
        run(smoke, "git", "reset", "--quiet", "--hard")
    lines = run(smoke, *shlex.split(command)).stdout.splitlines()
    assert sum("a-long-name" in line for line in lines) == 3
    assert max(map(len, lines)) <= 160
    header = " ".join(lines)
    assert "lora.rank" in header
    assert "validation_loss" in header
    assert "targets_per_second" in header


def test_a_running_training_tells_how_far_it_is_and_is_not_started_twice(smoke):
    assert "no training is under way" in stage(smoke, "train", "--status").stdout
    long = ["train.num_steps=4000", "train.batch_size=2", "train.steps_per_save=10"]
    command = [sys.executable, "-m", "stages.train", *long, "hydra.run.dir=runs/long"]
    process = subprocess.Popen(command, cwd=smoke, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    wait_for(lambda: list((smoke / ".checkpoints").glob("*/status.json")))
    said = stage(smoke, "train", "--status").stdout
    assert re.search(r"train: step \d+/4000, [\d.]+ steps/s, .* footprint 0\.\d+ GB", said)
    assert re.search(r"of [\d.]+ GB, 0 reloads, \d\d:\d\d:\d\d to go", said)
    second = stage(smoke, "train", *long, "hydra.run.dir=runs/second", check=False)
    assert second.returncode == 74
    assert f"already under way, in process {process.pid}" in second.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert not (smoke / "runs/long/models/trained").exists()
    assert "not running" in stage(smoke, "train", "--status").stdout
    shutil.rmtree(smoke / ".checkpoints")


def test_how_a_run_starts_can_be_chosen(smoke):
    few = ["train.num_steps=8", "train.steps_per_save=2", "debug.kill_at_step=5"]
    absent = stage(smoke, "train", *few, "train.resume=required", check=False)
    assert absent.returncode == 74
    assert "train.resume=required: this run has no checkpoint" in absent.stderr
    hang = ["train.hang_timeout_seconds=0.1"]
    refused = stage(smoke, "train", *few, *hang, check=False)
    assert "train.hang_timeout_seconds=0.1: must be at least 1" in refused.stderr
    done = stage(smoke, "train", *few, "hydra.run.dir=runs/crash")
    assert "resuming after step" in done.stderr
    assert read(smoke / "runs/crash", "train_machine")["recoveries"] == 1


def test_the_plan_is_printed_and_nothing_is_trained(smoke):
    done = stage(smoke, "train", "--plan", "hydra.run.dir=runs/plan")
    assert done.stdout.startswith("model: scratch, llama with 338,592 parameters\n")
    assert "\n12 steps, each of 32 documents of up to" in done.stdout
    assert re.search(r"^It fits: [\d.]+ GB are allowed", done.stdout, re.MULTILINE)
    assert re.search(
        r"^It takes [\d.]+ s: 12 steps of .* 3 validations of [\d.]+ s\.$",
        done.stdout,
        re.MULTILINE,
    )
    for name in ("weights", "train", "export", "validate", "benchmark"):
        assert re.search(rf"^{name} +[\d.]+ GB +[\d.]+ GB", done.stdout, re.MULTILINE)
    assert "floor" not in done.stdout
    longer = stage(smoke, "train", "--plan", "--verbose", "hydra.run.dir=runs/plan").stdout
    for words in ("logits", "peak: validation", "floor", "with train.grad_checkpoint=true"):
        assert words in longer
    assert not (smoke / "runs/plan/models").exists()
    assert not list((smoke / ".checkpoints").glob("*"))


def test_a_plan_needs_no_rows_and_takes_any_key(smoke, tmp_path):
    folder = write_llama(tmp_path, blocks=2)
    own = ["data=jsonl", "model=local", f"model.source={folder}", "data.max_seq_len=128"]
    done = stage(smoke, "train", "--plan", *own, "validate.documents=9", "train.batch_size=3")
    assert done.stdout.startswith(f"model: {folder.name}, llama with ")
    assert "each of 3 documents of up to 128 tokens\nNo rows are prepared for this" in done.stdout
    longer = stage(smoke, "train", "--plan", "data.max_seq_len=200").stdout
    assert "each of 32 documents of up to 200 tokens\nNo rows are prepared for this" in longer


def test_a_run_may_be_as_long_as_some_epochs_and_another_start_from_it(smoke):
    epochs = ["train.num_steps=null", "train.num_epochs=0.25", "train.batch_size=32"]
    lora = ["hydra.run.dir=runs/epochs", *epochs]
    plan = stage(smoke, "train", "--plan", *lora)
    done = stage(smoke, "train", *lora)
    (said,) = re.findall(r"train: 0.25 x (\d+) documents are (\d+) steps", done.stderr)
    documents, steps = map(int, said)
    assert f"x {documents} documents are {steps} steps" in plan.stderr
    assert steps == round(-(-documents // 32) / 4) > 1
    first = json.loads((smoke / "runs/epochs/metrics/train.json").read_text())
    assert first["num_steps"] == steps
    begun = ["train.init_from=runs/epochs", "hydra.run.dir=runs/begun"]
    refused = stage(smoke, "train", *begun, "lora.alpha=1", check=False)
    assert "this run trains:\n  the scale of the update" in refused.stderr
    stage(smoke, "train", *begun, "train.num_steps=2")
    with (smoke / "runs/begun/plots/validation.csv").open() as file:
        assert float(next(csv.DictReader(file))["val_loss"]) == first["val_loss"]


def test_what_cannot_fit_is_refused_with_what_would(smoke):
    tight = ["train.memory_limit_gb=0.4", "train.batch_size=256", "hydra.run.dir=runs/tight"]
    done = stage(smoke, "train", *tight, check=False)
    assert done.returncode == 1
    assert "DeviceError: " in done.stderr
    plan = stage(smoke, "train", *tight, "--plan")
    assert "\nIt does not fit.\n" in plan.stdout
    assert "Error" not in plan.stderr
    for text in (done.stderr, plan.stdout):
        assert re.search(r"needs [\d.]+ GB, and 0.3\d\d GB are allowed", text)
        assert "Each of these makes it fit" in text
        assert re.search(r"train.grad_accumulation_steps=\d+: 0.\d+ GB", text)
    assert not list((smoke / ".checkpoints").glob("*"))


def test_what_was_predicted_stands_beside_what_was_measured(smoke):
    metrics = read(smoke, "train_machine")
    predicted = metrics["predicted_peak_memory_bytes"]
    assert metrics["peak_memory_bytes"] == pytest.approx(predicted, rel=0.1)
    assert metrics["memory_floor_bytes"] < metrics["predicted_peak_memory_bytes"]


@pytest.mark.exhaustive
def test_a_profile_is_written_when_asked_for(smoke):
    stage(smoke, "train", "+debug=profile", "train.num_steps=2", "hydra.run.dir=runs/profile")
    with (smoke / "runs/profile/plots/profile.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    stage(smoke, "train", "train.num_steps=2", "hydra.run.dir=runs/plain")
    assert not (smoke / "runs/plain/plots/profile.csv").exists()


def test_a_blas_that_cannot_be_used_is_said_without_a_traceback(smoke):
    environment = {**ENVIRONMENT, "TIDEWHEEL_BLAS": "/nowhere/libblas.so"}
    command = [sys.executable, "-m", "stages.train"]
    done = subprocess.run(
        command, cwd=smoke, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "DeviceError: TIDEWHEEL_BLAS=/nowhere/libblas.so cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_blas_in_use_is_printed(smoke):
    done = stage(smoke, "train", "train.num_steps=1", "hydra.run.dir=runs/blas")
    assert read(smoke, "benchmark")["machine"]["blas"] in done.stderr


@pytest.mark.parametrize("mode", ["lora"])
def test_a_killed_training_goes_on_to_the_same_bits(smoke, mode):
    overrides = [
        f"train.mode={mode}",
        "train.num_steps=30",
        "train.steps_per_save=3",
        "train.steps_per_eval=10",
        "lora.dropout=0.1",
    ]
    folder = smoke / f"runs/{mode}"
    stage(smoke, "train", *overrides, f"hydra.run.dir={folder}/whole")
    command = [sys.executable, "-m", "stages.train", *overrides, f"hydra.run.dir={folder}/killed"]
    process = subprocess.Popen(command, cwd=smoke, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((smoke / ".checkpoints").glob("*/step-00000006")):
        assert time.monotonic() < deadline, "no checkpoint within a minute"
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "killed/models/trained").exists()
    done = stage(smoke, "train", *overrides, f"hydra.run.dir={folder}/killed")
    assert "resuming after step" in done.stderr
    files = [folder / name / "models/trained/adapters.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    for written in ("metrics/train.json", "plots/train.csv", "plots/validation.csv"):
        texts = [(folder / name / written).read_text() for name in ("whole", "killed")]
        assert texts[0] == texts[1]
    machine = [read(path.parents[2], "train_machine") for path in files]
    assert [one["recoveries"] for one in machine] == [0, 1]
    assert not list((smoke / ".checkpoints").glob("*/step-*"))


@pytest.mark.exhaustive
def test_a_quantised_base_is_trained_on_and_exported(smoke):
    folder = smoke / "runs/packed"
    place = [f"hydra.run.dir={folder}", f"inputs={folder}"]
    packed = ["model.quantize_bits=4", "model.quantize_group_size=32"]
    stage(smoke, "weights", *packed, f"hydra.run.dir={folder}")
    base = folder / "models/base"
    config = json.loads((base / "config.json").read_text())
    assert config["quantization"] == {"group_size": 32, "bits": 4, "mode": "affine"}
    sizes = [
        json.loads((f / "metrics/weights.json").read_text())["base_bytes"] for f in (folder, smoke)
    ]
    assert sizes[0] < 0.3 * sizes[1]
    before = {path.name: sha256_file(path) for path in base.iterdir()}
    done = stage(smoke, "train", "train.num_steps=2", "train.mode=dora", *place)
    assert "train: train.mode=dora trains\n  model.layers.*.self_attn.q_proj.m" in done.stderr
    stage(smoke, "export", *place)
    assert {path.name: sha256_file(path) for path in base.iterdir()} == before
    fused = load_file(folder / "models/export/fused/model.safetensors")
    assert fused.keys() == load_file(smoke / "models/base/model.safetensors").keys()


@pytest.mark.exhaustive
def test_the_ablation_is_one_sweep(smoke):
    """The additive term trains to the bytes of none; weights and sampling do something else."""
    modes = ["none", "additive", "weighted", "sampling"]
    stage(
        smoke,
        "train",
        "-m",
        f"objective.distrust.mode={','.join(modes)}",
        "train.num_steps=2",
        "hydra.sweep.dir=runs/ablation",
    )
    adapters = [
        (smoke / f"runs/ablation/{number}/models/trained/adapters.safetensors").read_bytes()
        for number in range(4)
    ]
    assert adapters[0] == adapters[1]
    assert len(set(adapters)) == 3
    with (smoke / "runs/ablation/table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["objective.distrust.mode"] for row in rows] == modes
    assert rows[0]["val_loss"] == rows[1]["val_loss"]
    assert [bool(row["distrust_term"]) for row in rows] == [False, True, False, False]


BAD_ROWS = {
    "bad JSON": ('{"text": "a"', r"rows.jsonl, line 3"),
    "no text": ('{"text": ""}', "line 3"),
    "wrong type": ('{"text": 7}', "line 3"),
    "nul": ('{"text": "a\\u0000b"}', "line 3"),
}


@pytest.mark.parametrize("kind", list(BAD_ROWS))
def test_bad_rows_stop_prepare_with_file_and_line(smoke, kind):
    line, place = BAD_ROWS[kind]
    rows = smoke / "rows.jsonl"
    rows.write_text('{"text": "good"}\n{"text": "better"}\n' + line + "\n")
    before = (smoke / "data/prepared/train/tokens.bin").read_bytes()
    done = stage(smoke, "prepare", "data=jsonl", f"data.path={rows}", check=False)
    assert done.returncode == 1
    assert "DataError" in done.stderr
    assert place in done.stderr
    assert "Traceback" not in done.stderr
    assert (smoke / "data/prepared/train/tokens.bin").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "override"),
    [("validate", "validate.sample_tokens=17"), ("benchmark", "benchmark.prompt_tokens=17")],
)
def test_texts_beyond_the_positions_stop_a_stage_before_it_measures(
    smoke, tmp_path, name, override
):
    for part in ("data/prepared", "models/base", "models/trained", "metrics", "plots"):
        shutil.copytree(smoke / part, tmp_path / part)
    config = tmp_path / "models/base/config.json"
    write_json(config, {**json.loads(config.read_text()), "max_position_embeddings": 16})
    seal(tmp_path / "models/base")
    done = stage(smoke, name, override, f"inputs={tmp_path}", check=False)
    assert done.returncode == 1
    assert "the model has 16 positions (of " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("prepare", "model.source=nowhere", "model.source=nowhere: there is no such folder"),
        ("prepare", "data.max_seq_len=4096", "the model has 256 positions"),
        ("train", "lora.targets=[q_porj]", "q_porj: matches no layer"),
        ("train", "lora.num_layers=99", "lora.num_layers=99: the model has"),
        ("train", "train.batch_size=0", "train.batch_size=0: must be at least 1"),
        ("train", "lora.rnak=3", "did you mean lora.rank"),
        ("train", "train.num_steps=many", "could not be converted to Integer"),
    ],
)
def test_bad_settings_stop_a_stage_with_the_key(smoke, name, override, message):
    group = ["model=local"] if override.startswith("model.source") else []
    done = stage(smoke, name, *group, override, check=False)
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
