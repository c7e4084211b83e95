"""The loop: a run that is stopped anywhere ends with the bits of one that is not."""

import csv
import dataclasses
import json
import math
import time

import numpy as np
import pytest

from pipeline.config.optimizers import OPTIMIZERS
from pipeline.device import mx
from pipeline.errors import CheckpointError, TrainingError
from pipeline.model.network.adapters import apply
from pipeline.model.network.tree import named_arrays, trainable_arrays
from pipeline.model.scratch import initialize
from pipeline.objective.distrust import NOTHING, DistrustSettings, distrust
from pipeline.objective.likelihood import MOST_ROWS, ConflictItem, primary_share
from pipeline.optim.optimizer import OptimSettings
from pipeline.train.checkpoints import state
from pipeline.train.checkpoints.folder import CheckpointFolder
from pipeline.train.checkpoints.series import MACHINE_COLUMNS, RESULT_COLUMNS
from pipeline.train.feed import Feed, TrainingData
from pipeline.train.finetune import optim_settings
from pipeline.train.loop import Trainer
from pipeline.train.observer import Observer
from pipeline.train.settings import TrainSettings
from stages.params import composed
from tests.model.test_body_and_head import PositionedHead
from tests.support.modes import MODES, settings_of

SETTINGS = TrainSettings(
    num_steps=9,
    batch_size=5,
    grad_accumulation_steps=2,
    max_grad_norm=0.5,
    steps_per_eval=4,
    steps_per_save=2,
    validation_documents=6,
    arrangement="bucketed",
    seed=3,
)


@pytest.fixture
def run(tmp_path, tiny_config, make_store):
    """Start, or go on with, a run in a folder; stop after some steps when asked to."""
    train, validation = make_store(), make_store("validation", 8, seed=9)

    def go(
        name,
        stop_after=None,
        mode="lora",
        learning_rate=1e-2,
        distrusted=NOTHING,
        conflicts=(),
        observer=None,
        code=None,
        if_changed="refuse",
        optim=None,
        dtype=mx.float32,
        **changes,
    ):
        model = initialize(tiny_config, seed=0)
        model.set_dtype(dtype)
        apply(model, settings_of(mode, dropout=0.3), seed=5)
        settings = dataclasses.replace(SETTINGS, **changes)
        optim = optim or OptimSettings(learning_rate, 0.01, 0.2)
        folder = tmp_path / name
        data = TrainingData(train, validation, distrusted, conflicts)
        trainer = Trainer(model, data, settings, optim, folder, observer)
        trainer.restore(code, if_changed)
        try:
            for report in trainer.steps():
                if report.step == stop_after:
                    return trainer
        except KeyboardInterrupt:
            trainer.save()  # as a worker does that is asked to stop
            raise
        return trainer

    return go


@pytest.fixture
def folder(tmp_path):
    """Find the folder of a run."""
    return lambda name: tmp_path / name


def bytes_of(array):
    """Give the bytes of an array; NumPy has no bfloat16."""
    exact = array.astype(mx.float32) if array.dtype == mx.bfloat16 else array
    return np.array(exact).tobytes()


def result(trainer):
    """Everything that must be equal between equal runs, as bytes and numbers."""
    arrays = {**trainable_arrays(trainer.model), **named_arrays(trainer.optimizer.state)}
    machine = {"wall_seconds", "step_seconds", "peak_memory_bytes"}
    progress = dataclasses.asdict(trainer.progress)
    return (
        {name: bytes_of(value) for name, value in arrays.items()},
        trainer.curve.rows(),
        trainer.validations.rows(),
        {name: value for name, value in progress.items() if name not in machine},
        np.array(mx.random.state[0]).tolist(),
    )


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("arrangement", ["bucketed", "packed"])
@pytest.mark.parametrize("stop_after", [1, 3, 4, 8])
def test_a_stopped_run_ends_with_the_same_bits(run, mode, arrangement, stop_after):
    whole = result(run("whole", mode=mode, arrangement=arrangement))
    mx.random.seed(99)  # whatever another process would have there
    run("stopped", stop_after=stop_after, mode=mode, arrangement=arrangement)
    mx.random.seed(77)
    resumed = run("stopped", mode=mode, arrangement=arrangement)
    assert result(resumed) == whole


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_stopped_run_with_parts_side_by_side_ends_with_the_same_bits(run, monkeypatch, mode):
    alone = result(run("alone", mode=mode))
    monkeypatch.setattr("pipeline.train.feed.num_cpu_streams", lambda: 2)
    whole = result(run("whole", mode=mode))
    run("stopped", stop_after=3, mode=mode)
    mx.random.seed(77)
    assert result(run("stopped", mode=mode)) == whole
    assert whole != alone  # the parts are added in an order of their own


@pytest.mark.parametrize(
    "overrides",
    [
        *(["optim=" + name] for name in OPTIMIZERS),
        ["optim=sgd", "optim.momentum=0"],
        ["optim=adamw", "optim.schedule=linear"],
        ["optim=adamw", "optim.schedule=constant", "optim.final_fraction=null"],
        ["optim=adamw", "optim.schedule=wsd", "optim.decay_fraction=0.5"],
    ],
    ids=lambda overrides: ",".join(overrides[:2]),
)
def test_a_stopped_run_of_every_optimizer_and_schedule_ends_with_the_same_bits(run, overrides):
    optim = optim_settings(composed([*overrides, "optim.warmup_fraction=0.3"]), 0)
    whole = result(run("whole", optim=optim, mode="full"))
    run("stopped", stop_after=5, optim=optim, mode="full")
    mx.random.seed(77)
    assert result(run("stopped", optim=optim, mode="full")) == whole


@pytest.mark.parametrize("float32_copy", [True, False])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=["bfloat16", "float16"])
def test_so_does_a_stopped_run_on_weights_of_16_bits(run, dtype, float32_copy):
    optim = OptimSettings(1e-3, 0.01, 0.2, float32_copy=float32_copy)
    changes = {"mode": "full", "dtype": dtype, "optim": optim}
    whole = run("whole", **changes)
    run("stopped", stop_after=3, **changes)
    mx.random.seed(77)
    assert result(run("stopped", **changes)) == result(whole)
    assert {value.dtype for value in trainable_arrays(whole.model).values()} == {dtype}
    other = result(run("other", **changes, seed=4))
    assert other != result(whole)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in {"lora", "full"}])
@pytest.mark.parametrize("grad_checkpoint", [False, True])
def test_so_does_a_stopped_run_of_every_other_mode(run, mode, grad_checkpoint):
    changes = {"mode": mode, "grad_checkpoint": grad_checkpoint}
    whole = result(run("whole", **changes))
    mx.random.seed(99)
    run("stopped", stop_after=3, **changes)
    mx.random.seed(77)
    resumed = run("stopped", **changes)
    assert result(resumed) == whole
    assert resumed.best_weights().keys() == trainable_arrays(resumed.model).keys()


@pytest.mark.parametrize("what", ["random key", "optimizer", "weights", "window"])
def test_without_any_part_of_the_state_the_bits_differ(run, monkeypatch, what):
    whole = result(run("whole"))
    run("stopped", stop_after=7)
    put_back = state.put_back

    def forgetful(checkpoint, model, optimizer):
        kept = {name: np.array(value) for name, value in trainable_arrays(model).items()}
        fresh, key = dict(optimizer.state), mx.random.state[0] + 1
        progress = put_back(checkpoint, model, optimizer)
        if what == "random key":
            mx.random.seed(int(key[1]))
        if what == "optimizer":
            optimizer.state = fresh
        if what == "weights":
            model.load_weights([(name, mx.array(value)) for name, value in kept.items()], False)
        if what == "window":
            progress.window_loss_sum = 0.0
        return progress

    monkeypatch.setattr("pipeline.train.loop.put_back", forgetful)
    assert result(run("stopped")) != whole


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(run):
    first = result(run("a"))
    assert result(run("b")) == first
    assert result(run("c", seed=4)) != first


def test_how_often_it_saves_does_not_change_the_result(run):
    assert result(run("a")) == result(run("b", steps_per_save=1))


def test_validation_does_not_change_training(run):
    often, seldom = run("a", steps_per_eval=1), run("b", steps_per_eval=9)
    for name, value in trainable_arrays(often.model).items():
        assert mx.array_equal(value, trainable_arrays(seldom.model)[name])


def test_validation_is_of_the_start_of_every_interval_and_of_the_final_weights(run):
    trainer = run("a")
    assert [int(row["step"]) for row in trainer.validations.rows()] == [0, 4, 8, 9]
    assert trainer.validations.rows()[-1]["val_loss"] == repr(trainer.progress.val_loss)
    before = trainer.progress.val_loss
    trainer.validations.resume_after(9)
    trainer.validate()
    assert trainer.progress.val_loss == before


def test_the_window_mean_is_that_of_tokens(run, make_store):
    trainer = run("a", num_steps=3, steps_per_eval=3)
    rows = trainer.curve.rows()
    steps = [trainer.feed.micro_batches(step) for step in (1, 2, 3)]
    counts = [sum(batch.num_targets for (batch,) in micro_batches) for micro_batches in steps]
    losses = [float(row["train_loss"]) for row in rows]
    assert trainer.progress.train_loss == pytest.approx(np.average(losses, weights=counts))
    assert trainer.progress.num_targets == sum(counts)


def test_time_of_steps_leaves_validation_out(run, monkeypatch):
    validate = Trainer.validate
    monkeypatch.setattr(Trainer, "validate", lambda trainer: (time.sleep(0.05), validate(trainer)))
    trainer = run("a")
    progress, rows = trainer.progress, trainer.machine.rows()
    assert len(trainer.validations.rows()) == 4
    assert progress.wall_seconds - progress.step_seconds > 4 * 0.05
    rates = [float(row["tokens_per_second"]) for row in rows]
    assert min(rates) <= progress.rates()["tokens_per_second"] <= max(rates)


def test_the_best_step_is_kept_and_can_be_read(run):
    trainer = run("a", learning_rate=0.3, num_steps=12, steps_per_eval=1, mode="full")
    rows = [(float(row["val_loss"]), int(row["step"])) for row in trainer.validations.rows()]
    assert (trainer.progress.best_val_loss, trainer.progress.best_step) == min(rows)
    assert trainer.progress.best_step < 11  # so that it had to be protected
    best, last = trainer.best_weights(), trainable_arrays(trainer.model)
    assert best.keys() == last.keys()
    trainer.model.load_weights(list(best.items()), strict=False)
    trainer.validations.resume_after(12)
    trainer.validate()
    assert trainer.progress.val_loss == trainer.progress.best_val_loss


@pytest.fixture
def distrusted(make_store):
    """Make what a mode does to the documents that `run` trains on."""

    def make(mode):
        return distrust(make_store(), DistrustSettings(mode, 2.7, 0.1, 1.9))

    return make


def weights_and_state(trainer):
    return result(trainer)[0]


def column(trainer, name):
    return [float(row[name]) for row in trainer.curve.rows()]


@pytest.mark.parametrize("training", ["lora", "full"])
def test_the_additive_mode_trains_to_the_bits_of_none(run, distrusted, training):
    none = run("none", mode=training)
    additive = run("additive", mode=training, distrusted=distrusted("additive"))
    assert weights_and_state(additive) == weights_and_state(none)
    assert additive.validations.rows() == none.validations.rows()
    assert column(additive, "train_loss") == column(none, "train_loss")
    assert all(term > 1 for term in column(additive, "distrust_term"))
    assert column(none, "distrust_term") == [0] * 9


@pytest.mark.parametrize("mode", ["weighted", "sampling"])
def test_other_modes_change_what_is_learnt(run, distrusted, mode):
    none, other = run("none"), run(mode, distrusted=distrusted(mode))
    assert weights_and_state(other) != weights_and_state(none)
    assert column(other, "distrust_term") == [0] * 9


@pytest.mark.parametrize("mode", ["additive", "weighted", "sampling"])
def test_a_stopped_run_of_any_mode_ends_with_the_same_bits(run, distrusted, mode):
    whole = result(run("whole", distrusted=distrusted(mode)))
    run("stopped", stop_after=5, distrusted=distrusted(mode))
    mx.random.seed(77)
    assert result(run("stopped", distrusted=distrusted(mode))) == whole


def test_weights_are_logged_apart_from_the_loss(run, distrusted):
    weighted = run("weighted", distrusted=distrusted("weighted"), learning_rate=0.0)
    none = run("none", learning_rate=0.0)
    assert column(weighted, "train_loss") == column(none, "train_loss")
    assert len(set(column(weighted, "mean_weight"))) > 1
    assert column(none, "mean_weight") == [1] * 9


def test_label_smoothing_is_minimised_and_not_reported(run):
    plain, smoothed = (
        run(name, label_smoothing=smoothing, learning_rate=0.0)
        for name, smoothing in (("a", 0.0), ("b", 0.2))
    )
    assert column(smoothed, "train_loss") == column(plain, "train_loss")
    assert smoothed.progress.val_loss == plain.progress.val_loss
    assert column(smoothed, "grad_norm") != column(plain, "grad_norm")


# Every key of `train` that the loop reads


def test_clipping_changes_the_updates_and_not_the_norm_that_is_reported(run):
    free, clipped = run("a", max_grad_norm=None), run("b", max_grad_norm=0.01)
    assert result(free)[0] != result(clipped)[0]
    norms = [trainer.curve.rows()[0]["grad_norm"] for trainer in (free, clipped)]
    assert norms[0] == norms[1]
    assert float(norms[0]) > 0.01


def test_as_many_documents_and_steps_as_asked_for_are_trained_on(run):
    for num_steps, batch_size in ((3, 2), (4, 6)):
        trainer = run(f"{num_steps}", num_steps=num_steps, batch_size=batch_size)
        assert len(trainer.curve.rows()) == trainer.progress.step == num_steps
        micro_batches = trainer.feed.micro_batches(num_steps)
        assert sum(len(batch.documents) for (batch,) in micro_batches) == batch_size


def test_accumulation_splits_a_step_and_changes_nothing(run):
    weights = []
    for count in (1, 3):
        trainer = run(f"{count}", grad_accumulation_steps=count, mode="full", batch_size=6)
        assert len(trainer.feed.micro_batches(1)) == count
        weights.append(trainable_arrays(trainer.model))
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, rtol=1e-2, atol=2e-4, err_msg=name)


def test_recomputing_changes_what_a_block_is_and_nothing_else(run):
    kept, recomputed = run("a"), run("b", grad_checkpoint=True)
    assert type(recomputed.model.layers[0]) is not type(kept.model.layers[0])
    for name, value in trainable_arrays(kept.model).items():
        found = trainable_arrays(recomputed.model)[name]
        np.testing.assert_allclose(found, value, rtol=1e-2, atol=2e-4, err_msg=name)


def test_it_saves_and_validates_at_the_intervals_and_keeps_as_many_as_asked_for(run):
    trainer = run("a", steps_per_save=3, steps_per_eval=9, keep_checkpoints=9)
    assert trainer.checkpoints.steps() == [0, 3, 6, 9]
    assert [int(row["step"]) for row in trainer.validations.rows()] == [0, 9]
    few = run("b", steps_per_save=1, steps_per_eval=9, keep_checkpoints=2)
    more = run("c", steps_per_save=1, steps_per_eval=9, keep_checkpoints=4)
    best = {trainer.progress.best_step}
    assert set(few.checkpoints.steps()) == {8, 9} | best
    assert set(more.checkpoints.steps()) == {6, 7, 8, 9} | best


def test_the_first_documents_are_validated_on_or_all(run):
    losses = [run(f"{count}", validation_documents=count, num_steps=1) for count in (2, 8, None)]
    found = [trainer.validations.rows()[0]["val_loss"] for trainer in losses]
    assert found[0] != found[1]
    assert found[1] == found[2]  # there are 8


OVERFITTING = {
    "learning_rate": 0.03,
    "num_steps": 60,
    "steps_per_eval": 2,
    "steps_per_save": 7,
    "mode": "full",
    "overfit_one_batch": True,
}
"""One batch again and again: the validation loss soon rises."""


def test_a_run_ends_after_so_many_validations_without_a_new_best(run):
    whole = run("whole", **OVERFITTING)
    losses = [float(row["val_loss"]) for row in whole.validations.rows()]
    assert whole.progress.stopped_early_at is None
    for patience in (1, 3):
        stopped = run(f"patience {patience}", early_stopping_patience=patience, **OVERFITTING)
        progress = stopped.progress
        bests = [int(np.argmin(losses[: index + 1])) for index in range(len(losses))]
        end = 2 * next(index for index, best in enumerate(bests) if index == best + patience)
        assert (progress.stopped_early_at, progress.step) == (end, end)
        assert end < 60
        assert progress.best_step == end - 2 * patience
        assert stopped.checkpoints.steps()[-1] == end
        assert [float(row["val_loss"]) for row in stopped.validations.rows()] == losses[
            : end // 2 + 1
        ]
        rows = zip(stopped.curve.rows(), whole.curve.rows(), strict=False)
        assert all(one["learning_rate"] == other["learning_rate"] for one, other in rows)
        assert len(stopped.curve.rows()) == end
        assert progress.val_loss == losses[end // 2]
        assert set(stopped.best_weights()) == set(trainable_arrays(stopped.model))


def test_a_run_that_ends_early_says_so(run, caplog):
    stopped = run("stopped", early_stopping_patience=1, **OVERFITTING)
    end, best = stopped.progress.step, stopped.progress.best_step
    said = f"Step {end}: 1 validations without a new best; the run ends here. The best weights, of "
    assert f"{said}step {best}, are in best/ (export.checkpoint=best)." in caplog.text


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5, 6, 7, 8])
def test_a_run_that_ends_early_does_so_with_the_same_bits_when_it_was_stopped(run, stop_after):
    settings = {**OVERFITTING, "early_stopping_patience": 2, "steps_per_save": 3}
    whole = run("whole", **settings)
    run("stopped", stop_after=stop_after, **settings)
    mx.random.seed(77)
    assert result(run("stopped", **settings)) == result(whole)
    finished = run("stopped", **settings)
    assert finished.progress.step == whole.progress.stopped_early_at
    assert result(finished) == result(whole)


def test_batch_tokens_are_the_other_way_to_size_a_step(run):
    trainer = run("a", batch_size=None, batch_tokens=60, num_steps=4)
    for step in (1, 2, 3, 4):
        documents = trainer.feed.order.documents(step)
        assert trainer.feed.data.train.lengths[documents].sum() <= 60


def test_the_curve_has_a_row_per_step_with_all_columns(run):
    trainer = run("a")
    rows, machine = trainer.curve.rows(), trainer.machine.rows()
    steps = [str(step) for step in range(1, 10)]
    assert [row["step"] for row in rows] == [row["step"] for row in machine] == steps
    assert (tuple(rows[0]), tuple(machine[0])) == (RESULT_COLUMNS, MACHINE_COLUMNS)
    assert float(rows[0]["learning_rate"]) == pytest.approx(1e-2 / 2)
    assert all(int(row["footprint_bytes"]) > 1e6 for row in machine)


@pytest.fixture
def poison(monkeypatch):
    """Make the gradient of the third step not a number."""
    micro_batches = Feed.micro_batches

    def poisoned(self, step):
        found = micro_batches(self, step)
        if step == 3:
            found = [
                (dataclasses.replace(batch, weights=batch.weights * np.float32("nan")),)
                for (batch,) in found
            ]
        return found

    monkeypatch.setattr(Feed, "micro_batches", poisoned)


def test_a_non_finite_gradient_stops_and_names_the_documents(run, tmp_path, poison):
    message = r"(?s)Step 3: loss \d.*gradient norm nan; the update was not applied.*Lower optim"
    with pytest.raises(TrainingError, match=message):
        run("a")
    written = json.loads((tmp_path / "a/non_finite-00000003.json").read_text())
    assert written["documents"] == sorted(run("b", num_steps=1).feed.order.documents(3).tolist())


def test_a_non_finite_step_can_be_skipped_and_is_counted(run, poison):
    trainer = run("a", on_non_finite="skip")
    assert (trainer.progress.skipped_steps, trainer.progress.step) == (1, 9)
    assert int(trainer.optimizer.step) == 8
    assert trainer.progress.val_loss < 5


def test_weights_that_are_not_finite_are_not_trained_on(run):
    with pytest.raises(TrainingError, match="Step 4: the validation loss is nan"):
        run("a", learning_rate=math.inf, on_non_finite="skip")


def test_other_numerics_are_refused_unless_that_is_allowed(run, monkeypatch):
    run("a", stop_after=5)
    monkeypatch.setattr(state, "numerics_fingerprint", lambda: {"device": "abacus"})
    message = r"(?s)stands at step 4, .*device: cpu -> abacus.*train.resume_allow_inexact=true"
    with pytest.raises(CheckpointError, match=message):
        run("a")
    assert run("a", if_changed="continue").progress.step == 9


STEP, LOOP = "pipeline/train/step.py", "pipeline/train/loop.py"


def test_changed_code_is_refused_and_named_unless_that_is_allowed(run):
    run("a", stop_after=5, code={STEP: "1", LOOP: "1"})
    message = (
        rf"(?s)stands at step 4, .*\(code: {STEP}\).*Go back to that environment and code, or "
        "continue with train.resume_allow_inexact=true .*or start afresh with train.resume=never"
    )
    changed = {STEP: "2", LOOP: "1"}
    with pytest.raises(CheckpointError, match=message):
        run("a", code=changed)
    assert run("a", code=changed, if_changed="continue").progress.step == 9
    assert run("a", code=changed).progress.step == 9  # what is saved now is of the new code


def test_code_that_comes_or_goes_has_changed(run):
    run("a", stop_after=5, code={STEP: "1"})
    with pytest.raises(CheckpointError, match=rf"\(code: {LOOP}, code: {STEP}\)"):
        run("a", code={LOOP: "1"})


def test_a_run_without_that_option_starts_afresh_and_says_so(run, caplog, tmp_path):
    run("a", stop_after=5, code={STEP: "1"})
    run("a", stop_after=1, code={STEP: "2"}, if_changed="restart")
    assert f"starting afresh, because of changes: code: {STEP}" in caplog.text
    assert [path.name for path in (tmp_path / "a").glob("step-*")] == ["step-00000000"]
    caplog.clear()
    assert run("a", code={STEP: "2"}, if_changed="restart").progress.step == 9
    assert "afresh" not in caplog.text
    runs = run("a", code={STEP: "2"}), run("b")
    losses = [[row["train_loss"] for row in each.curve.rows()] for each in runs]
    assert losses[0] == losses[1]


class Onlooker(Observer):
    """Ends a run between two batches of a validation."""

    def __init__(self, beats):
        self.beats_left, self.found = beats, []

    def heartbeat(self):
        self.beats_left -= 1
        if not self.beats_left:
            raise KeyboardInterrupt

    def validated(self, step, val_loss):
        self.found.append((step, val_loss))


def test_a_run_that_is_stopped_while_it_validates_ends_with_the_same_bits(run, folder):
    whole = result(run("whole"))
    observer = Onlooker(beats=2)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", observer=observer)
    assert [step for step, _ in observer.found] == [0]
    assert CheckpointFolder(folder("stopped"), 2).steps()[-1] == 4
    assert result(run("stopped")) == whole


def contests(count=40):
    """Make contests of random tokens, with two options each."""
    random = np.random.default_rng(4)
    return [
        ConflictItem(
            id=str(index),
            cluster=str(index),
            kind="contest",
            primary=1 - index % 2,
            counted=1 - index % 2,
            prompt_ids=random.integers(3, 64, size=3 + index % 5).tolist(),
            option_ids=random.integers(3, 64, size=(2, 1)).tolist(),
        )
        for index in range(count)
    ]


BY_CONTESTS = {
    "best": "conflicts",
    "validation_documents": None,
    "steps_per_eval": 2,
    "learning_rate": 0.03,
    "mode": "full",
}


def test_the_best_weights_are_those_that_win_most_contests(run):
    trainer = run("a", conflicts=contests(), **BY_CONTESTS)
    shares = [float(row["conflicts_primary_share"]) for row in trainer.validations.rows()]
    assert trainer.progress.best_step == 2 * int(np.argmax(shares)) > 0
    assert shares[-1] == primary_share(trainer.model, contests()).share
    few = run("few", conflicts=contests(), **{**BY_CONTESTS, "validation_documents": 7})
    found = float(few.validations.rows()[-1]["conflicts_primary_share"])
    assert found == primary_share(few.model, contests()[:7]).share
    assert trainer.progress.best_val_loss == float(
        trainer.validations.rows()[int(np.argmax(shares))]["val_loss"]
    )
    usual = run("b", conflicts=contests(), **{**BY_CONTESTS, "best": "val_loss"})
    assert {row["conflicts_primary_share"] for row in usual.validations.rows()} == {""}
    assert usual.progress.best_step != trainer.progress.best_step
    same = [name for name in usual.curve.rows() if name in trainer.curve.rows()]
    assert len(same) == 9  # the steps do not depend on what is the best


@pytest.mark.parametrize("stop_after", [1, 2, 5, 8])
def test_a_run_judged_by_contests_resumes_to_the_same_bits(run, stop_after):
    settings = {**BY_CONTESTS, "conflicts": contests(), "early_stopping_patience": 1}
    trainer = run("whole", **settings)
    whole = result(trainer)
    assert trainer.progress.stopped_early_at == 8
    run("stopped", stop_after=stop_after, **settings)
    mx.random.seed(77)
    assert result(run("stopped", **settings)) == whole


def test_contests_fill_no_larger_batches_than_the_validation(run):
    trainer = run("a", conflicts=contests(), num_steps=1, batch_size=2)
    longest = max(len(item.prompt_ids) + 1 for item in contests())
    assert trainer.feed.conflict_rows == MOST_ROWS
    tokens = {"evaluation_tokens": lambda *_: 3 * longest + 1}
    trainer.feed.settings = type("Small", (), tokens)()
    assert trainer.feed.conflict_rows == 3


def test_a_run_that_is_stopped_while_it_scores_contests_ends_with_the_same_bits(run, folder):
    settings = {**BY_CONTESTS, "conflicts": contests()}
    counting = Onlooker(beats=-1)
    whole = result(run("whole", observer=counting, **settings))
    beats = -1 - counting.beats_left
    with pytest.raises(KeyboardInterrupt):
        run("stopped", observer=Onlooker(beats=beats), **settings)  # in the last validation
    assert CheckpointFolder(folder("stopped"), 2).steps()[-1] == 9
    assert result(run("stopped", **settings)) == whole


def test_whoever_looks_on_hears_of_every_validation(run):
    observer = Onlooker(beats=-1)
    trainer = run("a", observer=observer)
    rows = trainer.validations.rows()
    assert observer.found == [(int(row["step"]), float(row["val_loss"])) for row in rows]


def test_a_disk_that_is_full_for_a_while_costs_only_time(run, monkeypatch, caplog):
    whole = result(run("whole"))
    save, failures = CheckpointFolder.save, []

    def sometimes(self, checkpoint, protect=None):
        if 4 <= checkpoint.step <= 6:
            failures.append(checkpoint.step)
            raise CheckpointError("no space")
        return save(self, checkpoint, protect)

    monkeypatch.setattr(CheckpointFolder, "save", sometimes)
    trainer = run("full")
    assert result(trainer) == whole
    assert failures == [4, 6]
    assert "Training goes on; the next save tries again" in caplog.text


def test_the_best_weights_survive_a_disk_that_was_full_when_they_were_found(run, monkeypatch):
    settings = {"learning_rate": 0.02, "num_steps": 30, "steps_per_eval": 2, "mode": "full"}
    expected = run("whole", **settings)
    best = expected.progress.best_step
    assert 0 < best < 30
    save, failed = CheckpointFolder.save, []

    def once(self, checkpoint, protect=None):
        if checkpoint.step == best and not failed:
            failed.append(best)
            raise CheckpointError("no space")
        return save(self, checkpoint, protect)

    monkeypatch.setattr(CheckpointFolder, "save", once)
    weights = run("full", **settings).best_weights()
    assert failed
    for name, value in expected.best_weights().items():
        assert mx.array_equal(value, weights[name])


def test_a_run_that_cannot_write_its_first_checkpoint_stops(run, monkeypatch):
    def full(self, checkpoint, protect=None):
        raise CheckpointError("no space")

    monkeypatch.setattr(CheckpointFolder, "save", full)
    with pytest.raises(CheckpointError, match="no space"):
        run("a")


def test_one_batch_can_be_learnt_by_heart(run):
    trainer = run("a", overfit_one_batch=True, num_steps=60, learning_rate=3e-2, mode="full")
    losses = [float(row["train_loss"]) for row in trainer.curve.rows()]
    assert losses[-1] < 0.3 * losses[0]
    first, later = (
        [batch.documents.tolist() for (batch,) in trainer.feed.micro_batches(step)]
        for step in (1, 9)
    )
    assert first == later


def test_a_profile_says_where_the_time_goes(run, tmp_path):
    run("a", profile=True)
    with (tmp_path / "a/profile.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 10))
    assert all(float(row["gradients"]) > float(row["batches"]) > 0 for row in rows)
    assert [int(row["step"]) for row in rows if float(row["validation"])] == [1, 4, 8, 9]
    assert not (tmp_path / "b").exists()
    run("b")
    assert not (tmp_path / "b/profile.csv").exists()


@pytest.mark.parametrize("reloads", [0, 1])
def test_a_head_that_cannot_be_run_by_itself_is_said_once(
    tiny_model, make_store, tmp_path, reloads
):
    class Noting(Observer):
        def __init__(self):
            self.notes, self.reloads = [], reloads

        def note(self, text):
            self.notes.append(text)

    def trainer(name, model):
        model.unfreeze()
        observer, optim = Noting(), OptimSettings(1e-2, 0.0, 0.0)
        Trainer(model, TrainingData(store, store), SETTINGS, optim, tmp_path / name, observer)
        return observer.notes

    store = make_store()
    assert trainer("usual", tiny_model) == []
    notes = trainer("other", PositionedHead(tiny_model))
    assert len(notes) == 1 - reloads
    for text in notes:
        assert text.startswith("the head of this model cannot be run by itself, so the logits of")
        assert "its logits then differ by" in text
