"""The same training in torch with peft, and the same loss in mlx-lm, on a real model and rows."""

import dataclasses

import numpy as np
import pytest
from mlx_lm.tuner.trainer import default_loss

from pipeline.data.batches import RowLayout, arrange
from pipeline.data.preparation.prepare import prepare
from pipeline.data.store import TokenStore
from pipeline.device import mx
from pipeline.model.network.adapters import AdapterSettings, apply
from pipeline.model.network.base import load_base, write_manifest
from pipeline.model.network.tree import trainable_arrays
from pipeline.train.feed import TrainingData
from pipeline.train.finetune import optim_settings
from pipeline.train.loop import Trainer
from stages.params import composed
from tests.support.plain import loss_sums
from tests.support.prepared import SETTINGS as PREPARE
from tests.support.torch_training import Recipe, their_steps, theirs_with_our_adapter
from tests.train.test_loop import SETTINGS

NUM_STEPS = 50
LORA = AdapterSettings("lora", 8, 16.0, 0.0, None, ("*",))
RECIPE = Recipe(NUM_STEPS, 2e-3, warmup_fraction=0.1, weight_decay=0.1, max_grad_norm=1.0)


@pytest.fixture(scope="module")
def rows(samples, tmp_path_factory):
    """Token stores of real rows, the longer ones cut."""
    folder = tmp_path_factory.mktemp("rows")
    settings = dataclasses.replace(
        PREPARE,
        path=samples / "data/wikisql",
        max_seq_len=192,
        tokenizer_source=samples / "models/stories260K",
        vocab_size=512,
    )
    prepare(settings, folder)
    return TokenStore(folder / "train"), TokenStore(folder / "validation")


@pytest.fixture
def story(samples, tmp_path):
    folder = samples / "models/stories260K"
    write_manifest(tmp_path, folder, "stories260K", "hash")
    return load_base(tmp_path, "float32").model


def our_training(story, rows, folder):
    """Set up a run of a few documents a step; nothing is trained yet."""
    apply(story, LORA, seed=5)
    keys = {
        "learning_rate": RECIPE.learning_rate,
        "warmup_fraction": RECIPE.warmup_fraction,
        "weight_decay": RECIPE.weight_decay,
    }
    optim = optim_settings(composed([f"optim.{key}={value}" for key, value in keys.items()]), 0)
    settings = {**vars(SETTINGS), "num_steps": NUM_STEPS, "batch_size": 3, "steps_per_eval": 50}
    settings |= {
        "steps_per_save": 50,
        "max_grad_norm": RECIPE.max_grad_norm,
        "grad_accumulation_steps": 2,
    }
    return Trainer(story, TrainingData(*rows), type(SETTINGS)(**settings), optim, folder)


@pytest.mark.filterwarnings("ignore::FutureWarning:peft", "ignore::FutureWarning:transformers")
def test_the_losses_of_a_lora_run_are_those_of_torch_and_peft(
    readers, samples, story, rows, tmp_path
):
    trainer = our_training(story, rows, tmp_path / "run")
    trainer.restore()
    adapter = {name: np.array(value) for name, value in trainable_arrays(story).items()}
    list(trainer.steps())
    ours = [float(row["train_loss"]) for row in trainer.curve.rows()]
    torch, model = theirs_with_our_adapter(readers, samples / "models/stories260K", adapter)
    theirs = [loss for loss, _ in their_steps(torch, model, trainer.feed, RECIPE)]
    found = np.abs(np.array(ours) / theirs - 1)
    print(f"from {ours[0]:.4f} to {ours[-1]:.4f}; greatest difference {found.max():.2e}")
    assert len(set(rows[0].lengths[:12])) > 3  # so that there is padding
    assert ours[-1] < 0.7 * ours[0]
    assert found.max() < 1e-4


def test_the_loss_is_that_of_mlx_lm_with_its_mask_corrected(story, rows):
    """mlx-lm counts `steps <= length`: one target too many, the padding after a document's last.

    A document of n tokens has n - 1 targets, at steps 1 to n - 1. Told that the length is n - 1
    its mask is right, and its loss is ours.
    """
    store = rows[0]
    documents = np.arange(12)
    ((batch,),) = arrange(store, documents, RowLayout("bucketed", int(store.lengths.max())))
    _, plain = loss_sums(
        story(mx.array(batch.inputs)),
        *(mx.array(part) for part in (batch.targets, batch.loss_mask, batch.weights)),
    )
    ours = float(plain) / batch.num_targets
    tokens = [store.tokens(index) for index in documents.tolist()]
    lengths = np.array([len(ids) for ids in tokens])
    assert len(set(lengths)) > 3
    padded = np.zeros((len(tokens), lengths.max() + 9), np.int32)
    for row, ids in zip(padded, tokens, strict=True):
        row[: len(ids)] = ids
    losses = {}
    for name, ends in (("as it is", lengths), ("corrected", lengths - 1)):
        spans = np.stack([np.zeros_like(ends), ends], axis=1)
        loss, count = default_loss(story, mx.array(padded), mx.array(spans))
        losses[name] = float(loss), int(count)
    assert losses["corrected"][1] == batch.num_targets
    assert losses["corrected"][0] == pytest.approx(ours, rel=1e-6)
    assert losses["as it is"][1] == batch.num_targets + len(tokens)
    assert losses["as it is"][0] != pytest.approx(ours, rel=1e-3)
