"""A stage by hand finds or makes what it needs; nothing is made twice, or of other parameters."""

import os
import sys

import pytest

from pipeline.config import earlier_stages as module
from pipeline.config import stage_paths
from pipeline.config.composition import composed
from pipeline.config.earlier_stages import Search, latest_run, resolve_inputs, with_earlier_stages
from pipeline.config.graph import folders_of, sections_of, stages_before
from pipeline.config.outputs import seal
from pipeline.config.overrides import FILE
from pipeline.config.records import record_of
from pipeline.errors import ConfigError

TRAIN = sections_of("train")


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Work in an empty repository; instead of a stage, folders and a record are written.

    Returns:
        A list of what was started: the stage, its overrides, and the run it was given.
    """
    monkeypatch.chdir(tmp_path)
    for where in (module, stage_paths):
        monkeypatch.setattr(where, "ROOT", tmp_path)
    started = []

    def start(search, name, folder):
        started.append((name, list(search.overrides), search.inputs))
        write_outputs(folder, name, search.inputs)
        record = record_of(name, search.config, data_of(search, name))
        record.write(folder)

    def data_of(search, name):
        earlier = module.earlier_runs(search.inputs, tmp_path, module.makers())
        return module.data_hashes(name, module.Paths(tmp_path, earlier))

    monkeypatch.setattr(Search, "start", start)
    return started


def write_outputs(folder, name, inputs=None, overrides=()):
    """Write what a run of a stage leaves."""
    for each in folders_of(name):
        (folder / each).mkdir(parents=True)
        (folder / each / "content").write_text(name)
        seal(folder / each)
    (folder / ".hydra").mkdir(exist_ok=True)
    (folder / ".hydra/config.yaml").write_text(f"inputs: {inputs or 'null'}\n")
    (folder / FILE).write_text("".join(f"- {item}\n" for item in overrides) or "[]\n")


def test_the_stages_before_a_stage_are_in_the_order_of_the_graph():
    assert stages_before("prepare") == []
    assert stages_before("train") == ["prepare", "weights"]
    assert stages_before("validate") == ["prepare", "weights", "train"]
    assert stages_before("by_hand_only") == []


def test_what_is_missing_is_made_once(made, tmp_path, capsys):
    command = ["data=stdlib", "lora.rank=3", "-m"]
    first = with_earlier_stages("train", TRAIN, command)
    assert [name for name, *_ in made] == ["prepare", "weights"]
    assert made[1][2].startswith("runs/prepare/")
    assert first[:3] == ["-m", "data=stdlib", "lora.rank=3"]
    assert first[3].startswith("inputs=runs/weights/")
    assert "train: makes runs/prepare/" in capsys.readouterr().err
    assert with_earlier_stages("train", TRAIN, ["data=stdlib", "lora.rank=4"])[2] == first[3]
    assert len(made) == 2
    assert capsys.readouterr().err.count(", made before\n") == 2


def test_other_parameters_are_other_outputs_from_there_on(made):
    with_earlier_stages("train", TRAIN, ["data=stdlib"])
    with_earlier_stages("train", TRAIN, ["data=stdlib", "model.scratch.hidden_size=64"])
    assert [name for name, *_ in made] == ["prepare", "weights", "prepare", "weights"]
    with_earlier_stages("train", TRAIN, ["data=stdlib", "model.pretrain.num_steps=7"])
    assert [name for name, *_ in made[4:]] == ["weights"]  # the same rows and tokenizer


def test_outputs_that_are_not_whole_are_made_again(made, tmp_path):
    with_earlier_stages("weights", sections_of("weights"), ["data=stdlib"])
    (folder,) = (tmp_path / "runs/prepare").iterdir()
    (folder / "data/prepared").rename(folder / "data/gone")
    with_earlier_stages("weights", sections_of("weights"), ["data=stdlib"])
    assert [name for name, *_ in made] == ["prepare", "prepare"]


def test_outputs_of_dvc_are_used_where_they_were_made_of_the_same(made, tmp_path, monkeypatch):
    for name in ("prepare", "weights"):
        write_outputs(tmp_path, name)
    config = composed([])
    known = {
        name: (module.parameters_of(config, sections_of(name)), module.files_of(name, config))
        for name in ("prepare", "weights")
    }
    monkeypatch.setattr(module, "recorded_by_dvc", known.get)
    assert with_earlier_stages("train", TRAIN, ["lora.rank=3"]) == ["lora.rank=3"]
    assert made == []
    with_earlier_stages("train", TRAIN, ["data=stdlib"])
    assert [name for name, *_ in made] == ["prepare", "weights"]  # also what alone would fit


def test_parameters_that_contradict_the_named_run_are_refused(made, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    command = ["data=jsonl", f"data.path={rows}", "data.max_seq_len=64"]
    with_earlier_stages("weights", sections_of("weights"), command)
    run = next((tmp_path / "runs/prepare").iterdir())
    with pytest.raises(ConfigError) as caught:
        with_earlier_stages("train", TRAIN, [f"inputs={run}", "data=stdlib", "seed=9"])
    lines = str(caught.value).splitlines()
    assert lines[0] == f"inputs={run}: its outputs were made with other parameters:"
    assert f"  data.source: jsonl in {run}, stdlib here" in lines
    assert f"  data.max_seq_len: 64 in {run}, None here" in lines
    assert not [line for line in lines if "seed" in line]  # train reads it, so it has an effect
    assert lines[-1] == (
        "Leave inputs= out, and they are made with these; or set the parameters as there."
    )


def test_what_the_named_run_lacks_is_made_from_it(made, tmp_path):
    with_earlier_stages("weights", sections_of("weights"), ["data=stdlib"])
    run = next((tmp_path / "runs/prepare").iterdir())
    found = with_earlier_stages("train", TRAIN, ["data=stdlib", f"inputs={run}"])
    assert [(name, inputs) for name, _, inputs in made] == [
        ("prepare", None),
        ("weights", str(run)),
    ]
    assert found[1].startswith("inputs=runs/weights/")


def test_a_run_is_composed_on_top_of_what_the_named_run_was_made_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/train/one"
    write_outputs(run, "train", overrides=["data=jsonl", "data.path=x", "lora.rank=3"])
    arguments = resolve_inputs(["--plan", "inputs=runs/train/one", "lora.rank=5"])
    expected = ["--plan", "data=jsonl", "data.path=x", "lora.rank=5", "inputs=runs/train/one"]
    assert arguments == expected
    assert resolve_inputs(["inputs=null", "seed=1"]) == ["inputs=null", "seed=1"]


def test_latest_is_the_run_of_train_that_finished_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    match = r"inputs=latest: no run of train has finished under .*/runs/train\.\nTrain by hand"
    with pytest.raises(ConfigError, match=match):
        latest_run()
    for moment, name in enumerate(["train/z", "train/sweep/1", "train/c", "validate/d"]):
        record = record_of(name.split("/")[0], composed([]), {})
        (tmp_path / "runs" / name).mkdir(parents=True)
        record.write(tmp_path / "runs" / name)
        file = tmp_path / "runs" / name / f".made/{record.stage}.json"
        os.utime(file, (moment % 2, moment % 2))
    assert latest_run() == "runs/train/sweep/1"
    assert resolve_inputs(["inputs=latest"]) == ["inputs=runs/train/sweep/1"]


def test_a_sweep_over_what_only_earlier_stages_read_is_refused(made, capsys):
    match = (
        r"A sweep of train alone cannot set what earlier stages read:\n  data.max_seq_len=8,9\n"
        r"Sweep the whole graph:\n  dvc exp run --queue -S data.max_seq_len=8,9 -S lora.rank=1,2"
    )
    with pytest.raises(ConfigError, match=match):
        with_earlier_stages("train", TRAIN, ["-m", "data.max_seq_len=8,9", "lora.rank=1,2"])
    assert made == []
    found = with_earlier_stages("train", TRAIN, ["-m", "data=stdlib", "seed=1,2"])
    assert "train: seed=1,2 is swept for this stage alone" in capsys.readouterr().err
    assert {"seed=1,2", "-m"} < set(found)
    assert all("seed=1,2" not in overrides for _, overrides, _ in made)


def test_a_stage_is_started_with_what_it_and_those_before_it_read(tmp_path, monkeypatch, capsys):
    commands = []

    class Failed:
        returncode = 3

    def run(command, check):
        commands.append(command)
        return Failed

    monkeypatch.setattr(module.subprocess, "run", run)
    overrides = ["data=stdlib", "experiment=smoke", "lora.rank=3", "model.dtype=float32"]
    search = Search("train", TRAIN, overrides, composed(overrides), "runs/prepare/x")
    with pytest.raises(SystemExit) as end:
        search.start("weights", tmp_path)
    assert end.value.code == 3
    assert capsys.readouterr().err == "train: not started, because weights failed\n"
    expected = ["data=stdlib", "experiment=smoke", "model.dtype=float32", "inputs=runs/prepare/x"]
    places = [*expected, f"hydra.run.dir={tmp_path}"]
    assert commands == [[sys.executable, "-m", "stages.weights", *places]]
