"""Every key of the training changes what it should change, and what it should not it leaves alone.

A row of the table is a key, another value for it, and what of the outcome must be different then.
"""

import ast
import copy

import numpy as np
import pytest
from omegaconf import OmegaConf

from pipeline.config import keys
from pipeline.files import sha256_file
from pipeline.train.finetune import Finetune
from pipeline.train.observer import Observer
from pipeline.train.protocol import Go, RunSpec
from tests.support.drive import PARAMETERS
from tests.support.small import ROOT

GO = Go(0, 0, None, 0, "refuse", 1, 0, None, "none")
ADDITIVE = {"objective.distrust.mode": "additive"}
MOMENTUM = {"optim.name": "sgd", "optim.momentum": 0.5}
WSD = {"optim.schedule": "wsd", "optim.decay_fraction": 0.5}
NORMS = {"train.mode": "tensors", "train.tensors": ["*norm*", "*proj*"], "optim.weight_decay": 0.5}

EFFECTS = {
    "objective.label_smoothing": (0.2, "weights", {}),
    "objective.distrust.mode": ("none", "weights", {}),
    "objective.distrust.alpha": (2.4, "distrust_term", ADDITIVE),
    "objective.distrust.min_weight": (0.6, "weights", {}),
    "objective.distrust.max_weight": (1.1, "weights", {}),
    "lora.rank": (2, "num_trainable", {}),
    "lora.alpha": (16.0, "weights", {}),
    "lora.rslora": (True, "weights", {}),
    "lora.dropout": (0.0, "weights", {}),
    "lora.num_layers": (1, "num_trainable", {}),
    "lora.targets": (["q_proj"], "num_trainable", {}),
    "optim.name": ("lion", "weights", {}),
    "optim.learning_rate": (2e-2, "learning_rate", {}),
    "optim.weight_decay": (0.5, "weights", {}),
    "optim.no_decay": ([], "weights", NORMS),
    "optim.beta1": (0.5, "weights", {}),
    "optim.beta2": (0.9, "weights", {}),
    "optim.eps": (1e-2, "weights", {}),
    "optim.momentum": (0.9, "weights", MOMENTUM),
    "optim.schedule": ("linear", "learning_rate", {}),
    "optim.warmup_fraction": (0.5, "learning_rate", {}),
    "optim.decay_fraction": (0.25, "learning_rate", WSD),
    "optim.final_fraction": (0.5, "learning_rate", {}),
    "optim.float32_copy": (False, "weights", {"train.mode": "full", "model.dtype": "bfloat16"}),
    "train.mode": ("full", "num_trainable", {}),
    "train.tensors": (["*norm*"], "num_trainable", NORMS),
    "train.num_steps": (9, "learning_rate", {}),
    "train.batch_size": (4, "num_tokens", {}),
    "train.batch_tokens": (90, "num_tokens", {"train.batch_size": None, "train.batch_tokens": 60}),
    "train.max_grad_norm": (0.01, "weights", {}),
    "train.steps_per_eval": (4, "validated_steps", {}),
    "train.steps_per_save": (5, "saved_steps", {}),
    "train.validation_documents": (3, "val_loss", {}),
    "train.validation_tokens": (30, "val_loss", {}),
    "train.keep_checkpoints": (4, "kept_steps", {}),
    "train.early_stopping_patience": (1, "last_step", {"optim.learning_rate": 1e-12}),
    "train.grad_accumulation_steps": (1, "micro_batches", {"data.arrangement": "bucketed"}),
    "train.grad_checkpoint": (True, "block_classes", {}),
    "train.prefix_cache_gb": (0.0, "cache_hit_rate", {"lora.num_layers": 1}),
}
TESTED_ELSEWHERE = {
    "train.init_from": (
        "test_finetune",
        "test_a_run_may_start_from_the_weights_of_another_with_a_new_optimizer",
    ),
    "train.num_epochs": (
        "test_epochs",
        "test_a_run_of_some_epochs_is_that_of_their_steps_which_are_printed",
    ),
    "train.best": ("test_finetune", "test_the_best_weights_may_be_those_that_win_most_contests"),
    "train.on_non_finite": ("test_loop", "test_a_non_finite_step_can_be_skipped_and_is_counted"),
    "train.steps_per_sample": (
        "test_supervisor",
        "test_samples_between_two_workers_change_no_bit",
    ),
    "train.reload_interval_steps": (
        "test_supervisor",
        "test_reloading_at_an_interval_changes_no_bit",
    ),
    "train.reload_memory_threshold_gb": (
        "test_supervisor",
        "test_reloading_by_memory_under_a_leak_changes_no_bit_and_keeps_below",
    ),
    "train.memory_limit_gb": (
        "test_supervisor",
        "test_a_worker_that_holds_too_much_is_ended_and_the_next_one_goes_on",
    ),
    "train.shrink_on_oom": (
        "test_supervisor",
        "test_shrinking_after_memory_deaths_is_said_and_recorded",
    ),
    "train.hang_timeout_seconds": ("test_supervisor", "test_a_worker_that_hangs_is_replaced"),
    "train.resume": ("test_run_folder", "test_a_run_can_be_started_afresh"),
    "train.resume_allow_inexact": (
        "test_faults",
        "test_going_on_inexactly_is_recorded_in_the_metrics",
    ),
}
LEAVES_THE_RESULT = ("train.steps_per_save", "train.keep_checkpoints")


@pytest.fixture(scope="module")
def outcome(world, tmp_path_factory):
    """Train with some parameters changed; give all that may differ."""

    def train(changes):
        parameters = OmegaConf.create(copy.deepcopy(PARAMETERS))
        for name, value in changes.items():
            OmegaConf.update(parameters, name, value)
        folder = tmp_path_factory.mktemp("run")
        spec = RunSpec(
            title="train",
            kind="finetune",
            parameters=OmegaConf.to_container(parameters),
            base=str(world / "base"),
            prepared=str(world / "prepared"),
            run_folder=str(folder),
            output=str(folder / "out"),
            activations=str(folder / "prefix"),
        )
        finetune = Finetune(spec)
        trainer = finetune.load(GO, Observer())
        saved = []
        save = trainer.durable_save.save
        trainer.durable_save.save = lambda now, best: (saved.append(now.step), save(now, best))[1]
        trainer.restore()
        list(trainer.steps())
        metrics = finetune.finish(trainer)
        curve = trainer.curve.rows()
        return {
            "weights": sha256_file(folder / "out/adapters.safetensors"),
            "num_trainable": metrics["trainable_parameters"],
            "learning_rate": [row["learning_rate"] for row in curve],
            "distrust_term": [row["distrust_term"] for row in curve],
            "num_tokens": metrics["num_tokens"],
            "last_step": trainer.progress.step,
            "validated_steps": [row["step"] for row in trainer.validations.rows()],
            "val_loss": [row["val_loss"] for row in trainer.validations.rows()],
            "saved_steps": saved,
            "kept_steps": trainer.checkpoints.steps(),
            "micro_batches": len(trainer.feed.micro_batches(1)),
            "cache_hit_rate": metrics["prefix"]["cache_hit_rate"],
            "block_classes": len(type(trainer.model.layers[0]).__mro__),
        }

    return train


@pytest.fixture(scope="module")
def usual(outcome):
    """Give the outcome without the change, once for each setting around it."""
    known = {}

    def find(around):
        key = repr(around)
        if key not in known:
            known[key] = outcome(around)
        return known[key]

    return find


@pytest.mark.parametrize("name", EFFECTS)
def test_a_key_changes_what_it_should(outcome, usual, name):
    value, what, around = EFFECTS[name]
    before, after = usual(around), outcome({**around, name: value})
    assert after[what] != before[what]
    if name in LEAVES_THE_RESULT:
        assert after["weights"] == before["weights"]


@pytest.mark.parametrize(
    "name", ["train.grad_accumulation_steps", "train.grad_checkpoint", "train.prefix_cache_gb"]
)
def test_what_only_saves_memory_or_time_changes_nothing_but_rounding(outcome, usual, name):
    without_dropout = {"lora.dropout": 0.0, **EFFECTS[name][2], "data.arrangement": "packed"}
    before = usual(without_dropout)
    after = outcome({**without_dropout, name: EFFECTS[name][0]})
    losses = [np.array(found["val_loss"], dtype=np.float64) for found in (before, after)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_every_key_of_the_training_has_such_a_test():
    sections = ("objective", "lora", "optim", "train")
    names = {name for name, _ in keys.leaves() if name.split(".")[0] in sections}
    assert names == EFFECTS.keys() | TESTED_ELSEWHERE.keys()
    assert not EFFECTS.keys() & TESTED_ELSEWHERE.keys()


@pytest.mark.parametrize("name", TESTED_ELSEWHERE)
def test_what_is_tested_elsewhere_is(name):
    module, test = TESTED_ELSEWHERE[name]
    files = (ROOT / "tests").rglob(f"{module}.py")
    nodes = [node for file in files for node in ast.parse(file.read_text()).body]
    assert test in {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
