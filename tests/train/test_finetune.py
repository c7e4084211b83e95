"""Fine-finetune as a worker does it: what is read from the configuration, and what is written."""

import csv
import dataclasses
import json
import shutil

import pytest
from omegaconf import OmegaConf

from pipeline.device import is_cpu, mx
from pipeline.errors import ConfigError
from pipeline.files import read_json, sha256_path
from pipeline.objective.likelihood import Share
from pipeline.train import finetune, loop
from pipeline.train.checkpoints.state import Progress
from pipeline.train.finetune import OWN_HEAD, Finetune, adapter_settings
from pipeline.train.observer import Observer
from pipeline.train.protocol import Go, RunSpec
from tests.support.drive import parameters

GO = Go(0, 10**10, None, 0, "refuse", 1, 0, None, "none")
TENSORS = {"train__mode": "tensors", "train__tensors": ["*.q_proj.weight"]}


class Reader(Observer):
    """Collects what a person would read."""

    def __init__(self):
        self.notes, self.may_stop = [], True

    def heartbeat(self):
        assert self.may_stop, "asked whether to stop while the results are written"

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def loaded(world, tmp_path):
    """Make a run and load its weights; nothing is trained yet."""

    def load(go=GO, prepared=world / "prepared", **changes):
        changed = parameters(train__num_steps=2, **changes)
        folders = {"run_folder": str(tmp_path / "run"), "output": str(tmp_path / "out")}
        spec = RunSpec(
            title="train",
            kind="finetune",
            parameters=changed,
            base=str(world / "base"),
            prepared=str(prepared),
            **folders,
        )
        run, reader = Finetune(spec), Reader()
        return run, run.load(go, reader), reader

    return load


@pytest.fixture
def tuned(loaded):
    def tune(**changes):
        run, trainer, reader = loaded(**changes)
        trainer.restore()
        list(trainer.steps())
        reader.may_stop = False
        return run.finish(trainer), reader.notes

    return tune


@pytest.mark.parametrize(
    "changes",
    [
        {"train__mode": "lora"},
        {"train__mode": "dora"},
        {"train__mode": "head"},
        {"train__mode": "full"},
        TENSORS,
    ],
    ids=lambda changes: changes["train__mode"],
)
def test_each_mode_leaves_the_base_on_disk_and_says_what_it_trains(tuned, world, tmp_path, changes):
    before = sha256_path(world / "base")
    metrics, notes = tuned(**changes)
    assert sha256_path(world / "base") == before
    mode = changes["train__mode"]
    assert notes[0].startswith(f"train.mode={mode} trains\n")
    assert notes[1:-1] == ([OWN_HEAD] if mode == "head" else [])
    assert notes[-1].startswith("6 of 8 held-out documents are measured, 75% (train.validation_doc")
    for folder in ("out", "out/best"):
        weights = mx.load(str(tmp_path / folder / "adapters.safetensors"))
        assert sum(value.size for value in weights.values()) == metrics["trainable_parameters"]
    assert f"{metrics['trainable_parameters']:,}" in notes[0].splitlines()[-1]
    assert read_json(tmp_path / "out/adapter_config.json")["fine_tune_type"] in {
        mode,
        "full",
    }


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("lora__rank", 5, "rank"),
        ("lora__alpha", 3.0, "alpha"),
        ("lora__rslora", True, "rslora"),
        ("lora__dropout", 0.7, "dropout"),
        ("lora__num_layers", 1, "num_layers"),
        ("lora__targets", ("q_proj",), "targets"),
        ("train__mode", "dora", "mode"),
        ("train__tensors", ("a", "b"), "tensors"),
    ],
)
def test_every_key_reaches_the_settings(name, value, field):
    given = list(value) if isinstance(value, tuple) else value
    usual = adapter_settings(OmegaConf.create(parameters()))
    other = adapter_settings(OmegaConf.create(parameters(**{name: given})))
    assert getattr(other, field) == value != getattr(usual, field)


def test_named_tensors_are_the_ones_written(tuned, tmp_path):
    tuned(**TENSORS)
    names = {f"model.layers.{index}.self_attn.q_proj.weight" for index in (0, 1)}
    assert mx.load(str(tmp_path / "out/adapters.safetensors")).keys() == names


# The best weights


def with_contests(world, folder):
    """Copy the prepared data, with a suite of four contests."""
    shutil.copytree(world / "prepared", folder)
    rows = [
        {
            "id": str(index),
            "cluster": str(index),
            "kind": "contest",
            "primary": index % 2,
            "counted": index % 2,
            "prompt_ids": [1, 5 + index, 7],
            "option_ids": [[9], [11]],
        }
        for index in range(4)
    ]
    (folder / "conflicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_best_weights_may_be_those_that_win_most_contests(
    tuned, world, tmp_path, monkeypatch, caplog
):
    shares = iter([0.25, 0.75, 0.5, 0.5])  # at steps 0 to 2, and for the metrics
    monkeypatch.setattr(loop, "primary_share", lambda *_: Share(next(shares), 0.0, 1.0, 4))
    prepared = with_contests(world, tmp_path / "prepared")
    usual, _ = tuned(train__steps_per_eval=1)
    assert not any(name.startswith("conflicts") for name in usual)
    last = sha256_path(tmp_path / "out/adapters.safetensors")
    shutil.rmtree(tmp_path / "run")
    caplog.clear()
    metrics, _ = tuned(train__steps_per_eval=1, train__best="conflicts", prepared=prepared)
    assert "before the first step" not in caplog.text
    assert metrics["best_step"] == 1 != usual["best_step"]
    assert metrics["conflicts_primary_share"] == 0.5
    assert sha256_path(tmp_path / "out/adapters.safetensors") == last
    assert sha256_path(tmp_path / "out/best/adapters.safetensors") != last


def test_a_best_that_is_the_base_is_told(tuned, caplog):
    tuned(optim__learning_rate=0.0)
    assert "by train.best=val_loss, than the one before the first step" in caplog.text
    assert "models/trained/best holds what training started from" in caplog.text


@pytest.mark.skipif(not is_cpu(), reason="16 bits are slow only on a CPU")
@pytest.mark.parametrize("reloads", [0, 1])
def test_a_slow_type_is_warned_about_before_the_first_step_and_once(loaded, caplog, reloads):
    loaded(dataclasses.replace(GO, reloads=reloads), model__dtype="bfloat16")
    assert ("Set model.dtype=float32." in caplog.text) is (reloads == 0)


@pytest.mark.parametrize("changes", [{}, {"train__mode": "full"}], ids=["lora", "full"])
def test_a_run_may_start_from_the_weights_of_another_with_a_new_optimizer(
    loaded, tuned, tmp_path, changes
):
    first, _ = tuned(**changes)
    (tmp_path / "out").rename(tmp_path / "first")
    shutil.rmtree(tmp_path / "run")
    run, trainer, reader = loaded(train__init_from=str(tmp_path / "first"), **changes)
    assert reader.notes[0] == f"starts from the trained weights in {tmp_path / 'first'}"
    trainer.restore()
    assert trainer.progress == Progress()
    assert int(trainer.optimizer.step) == 0
    list(trainer.steps())
    run.finish(trainer)
    validations = trainer.validations.rows()
    assert validations[0]["step"] == "0"
    assert float(validations[0]["val_loss"]) == first["val_loss"]
    assert sha256_path(tmp_path / "out") != sha256_path(tmp_path / "first")


def test_a_beginning_that_does_not_fit_is_refused_before_the_first_step(loaded, tuned, tmp_path):
    tuned()
    with pytest.raises(ConfigError, match=r"lora\.rank: 4 there, 2 here"):
        loaded(train__init_from=str(tmp_path / "out"), lora__rank=2)


@pytest.mark.parametrize("reloads", [0, 1])
def test_targets_that_cannot_be_learnt_are_told_before_the_first_step_and_once(
    loaded, caplog, monkeypatch, reloads
):
    asked = []
    monkeypatch.setattr(finetune, "untrained_notice", lambda *given: asked.append(given) or "Told.")
    run, trainer, _ = loaded(dataclasses.replace(GO, reloads=reloads))
    assert ("Told." in caplog.text) is (reloads == 0)
    for body_and_head, targets, base in asked:
        assert body_and_head is trainer.train_step.body_and_head
        assert targets.tolist() == run.data.train.target_ids().tolist()
        assert str(base) == run.spec.base


def test_contests_that_are_not_there_cannot_choose_the_best(tuned):
    match = (
        r"train\.best=conflicts: .*conflicts\.jsonl does not exist; only .*\nSet train\.best=val"
    )
    with pytest.raises(ConfigError, match=match):
        tuned(train__best="conflicts")


# The learning rate


@pytest.mark.parametrize(("asked", "peak"), [("auto", 2e-3), (1e-4, 1e-4), (1, 1.0)])
def test_the_peak_rate_is_in_the_metrics_and_beside_the_weights(tuned, tmp_path, asked, peak):
    metrics, notes = tuned(optim__learning_rate=asked, optim__warmup_fraction=0.0)
    assert metrics["learning_rate"] == peak
    assert (metrics["validation_documents"], metrics["validation_share"]) == (6, 0.75)
    for folder in ("out", "out/best"):
        assert read_json(tmp_path / folder / "adapter_config.json")["learning_rate"] == peak
    with (tmp_path / "run/train.csv").open() as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert max(rates) == pytest.approx(peak)  # in float32
    said = [note for note in notes if "learning rate is 0.002" in note]
    assert len(said) == (asked == "auto")
    assert any("optim.learning_rate=1 is 500 times" in note for note in notes) == (asked == 1)


def test_the_automatic_rate_is_said_once(loaded):
    _, _, reader = loaded(dataclasses.replace(GO, reloads=1), optim__learning_rate="auto")
    assert reader.notes == []
