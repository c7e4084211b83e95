"""Frozen blocks: what a run gives does not depend on whether they are run in every step."""

import dataclasses
import json

import numpy as np
import pytest

from pipeline.data.store import DOCUMENT, TokenStore, TokenStoreWriter
from pipeline.device import mx, nn
from pipeline.errors import ModelError
from pipeline.model.network.adapters import AdapterSettings, apply
from pipeline.model.network.forward import checkpoint_blocks, forward
from pipeline.model.network.intercept import outputs_noted
from pipeline.model.network.tree import blocks, trainable_arrays
from pipeline.model.prefix import FrozenPrefix, find_prefix, frozen_depth
from pipeline.model.scratch import initialize
from pipeline.optim.optimizer import OptimSettings
from pipeline.train.cpu_streams import CpuStreams
from pipeline.train.feed import TrainingData
from pipeline.train.loop import Trainer
from pipeline.train.observer import Observer
from pipeline.train.prefix.replay import PrefixSettings
from tests.support.small import random_documents
from tests.train.test_loop import SETTINGS, result

BLOCKS = 4
PREFIX_COUNTS = {"prefix_lookups", "prefix_hits", "prefix_seconds"}
TOKENS = mx.array([[1, 5, 9, 33, 2, 60], [7, 7, 3, 4, 5, 6]])
KINDS = {
    "lora": {"num_layers": 1},
    "rslora": {"mode": "lora", "rslora": True, "num_layers": 2},
    "dora": {"mode": "dora", "num_layers": 2},
    "head": {"mode": "head"},
    "tensors": {"mode": "tensors", "tensors": ("model.layers.2.*_proj.weight", "model.norm.*")},
}
DEPTHS = {"lora": 3, "rslora": 2, "dora": 2, "head": 4, "tensors": 2}
UNUSABLE = {
    "all blocks": ({"num_layers": None}, "the first block is trained"),
    "full": ({"mode": "full"}, "the first block is trained"),
    "embeddings": (
        {"num_layers": 1, "targets": ("q_proj", "embed_tokens")},
        "what enters the blocks is trained too",
    ),
    "embedding": (
        {"mode": "tensors", "tensors": ("model.embed_tokens.weight",)},
        "what enters the blocks is trained too",
    ),
}


def adapter(**changes):
    usual = {"mode": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.0, "num_layers": 1}
    return AdapterSettings(**{**usual, "targets": ("*",), **changes})


@pytest.fixture
def config(tiny_config):
    return {**tiny_config, "num_hidden_layers": BLOCKS}


@pytest.fixture
def tunable(config):
    """Make a model of four blocks trainable, its adapters no longer zero."""

    def make(quantised=False, **changes):
        shape = {"hidden_size": 32, "intermediate_size": 32} if quantised else {}
        model = initialize({**config, **shape}, seed=0)
        if quantised:
            nn.quantize(model, group_size=32, bits=4)
            model.freeze()
        apply(model, adapter(**changes), seed=5)
        for name, value in trainable_arrays(model).items():
            value += mx.random.normal(value.shape, scale=0.1, key=mx.random.key(len(name)))
        return model

    return make


# The model


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_gives_the_same_logits_to_the_bit(tunable, kind):
    model = tunable(**KINDS[kind])
    whole = forward(model, TOKENS)
    prefix = find_prefix(model)
    assert prefix.depth == DEPTHS[kind]
    with prefix.replay(prefix.record(TOKENS)):
        assert mx.array_equal(forward(model, TOKENS), whole)
        wrong = forward(model, TOKENS[:, ::-1])  # tokens are not looked at
        assert mx.array_equal(wrong, whole)
    assert mx.array_equal(forward(model, TOKENS), whole)


def test_what_is_recorded_enters_the_first_trained_block(tunable):
    model = tunable(num_layers=1)
    hidden = model.model.embed_tokens(TOKENS)
    for block in blocks(model)[:3]:
        hidden = block(hidden, "causal")
    assert mx.allclose(find_prefix(model).record(TOKENS), hidden, atol=1e-6)


def test_frozen_blocks_and_the_embedding_are_neither_called_nor_computed(config):
    model = initialize({**config, "tie_word_embeddings": False}, seed=0)
    apply(model, adapter(), seed=5)
    prefix = find_prefix(model)
    hidden = prefix.record(TOKENS)
    mx.eval(hidden)
    blocks(model)[1].self_attn = None
    model.model.embed_tokens.weight = model.model.embed_tokens.weight * mx.nan
    with prefix.replay(hidden):
        assert not mx.isnan(forward(model, TOKENS)).any()
    with pytest.raises(TypeError):
        forward(model, TOKENS)


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_cannot_be_left_out_is_found_and_nothing_is_changed(tunable, kind):
    changes, reason = UNUSABLE[kind]
    model = tunable(**changes)
    before, classes = forward(model, TOKENS), [type(block) for block in blocks(model)]
    with pytest.raises(ModelError, match=reason):
        find_prefix(model)
    assert [type(block) for block in blocks(model)] == classes
    assert mx.array_equal(forward(model, TOKENS), before)


def test_a_model_that_looks_back_at_its_embedding_is_refused(tunable):
    model = tunable(num_layers=1)

    class Looking(type(model.model)):
        def __call__(self, inputs, cache=None, input_embeddings=None):
            hidden = self.embed_tokens(inputs)
            skip = self.layers[0](hidden, "causal")
            for layer in self.layers:
                hidden = layer(hidden, "causal") + skip
            return self.norm(hidden)

    model.model.__class__ = Looking
    with pytest.raises(ModelError, match="without its frozen blocks this model gives other logits"):
        find_prefix(model)


def test_a_model_whose_blocks_give_more_than_a_vector_is_refused(tunable):
    model = tunable(num_layers=1)

    class Pair(type(blocks(model)[0])):
        def __call__(self, hidden, *args, **kwargs):
            return super().__call__(hidden, *args, **kwargs), None

    blocks(model)[2].__class__ = Pair
    with pytest.raises(ModelError, match="does not give one vector per token"):
        find_prefix(model)


def test_dropout_is_not_asked_for_random_numbers(tunable):
    model = tunable(num_layers=1, dropout=0.5)
    model.train()
    before = mx.random.state[0]
    find_prefix(model)
    assert mx.random.state[0] is before
    assert model.training


def test_checkpointed_blocks_and_quantised_ones_go_on_working(tunable):
    for model in (tunable(quantised=True), tunable(mode="dora")):
        whole = forward(model, TOKENS)
        checkpoint_blocks(model)
        prefix = find_prefix(model)
        with prefix.replay(prefix.record(TOKENS)):
            assert mx.array_equal(forward(model, TOKENS), whole)


def test_the_depth_is_that_of_the_first_trained_block(tunable):
    model = tunable(mode="head")
    assert frozen_depth(model) == BLOCKS
    FrozenPrefix(model, 2).remove()
    assert len({type(block) for block in blocks(model)}) == 1


# Runs


class Reader(Observer):
    """Keeps what is said."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def stores(tmp_path):
    for name, count, seed in (("train", 24, 0), ("validation", 8, 9)):
        with TokenStoreWriter(tmp_path / name, 64) as writer:
            for ids, mask in random_documents(count, seed):
                writer.add(ids, mask, None, None)
    return TokenStore(tmp_path / "train"), TokenStore(tmp_path / "validation")


@pytest.fixture
def run(tmp_path, tunable, stores):
    """Start, or go on with, a run in a folder; stop after some steps when asked to."""

    def go(
        name,
        cache="cache",
        gb=1.0,
        stop_after=None,
        adapter=None,
        base="base",
        model=None,
        **changes,
    ):
        settings = dataclasses.replace(SETTINGS, **{"num_steps": 7, **changes})
        place = tmp_path / cache if cache else None
        prefix = PrefixSettings(place, int(gb * 1e9), {"weights": base}) if place else None
        trainer = Trainer(
            model or tunable(**(adapter or {})),
            TrainingData(*stores, activations=prefix),
            settings,
            OptimSettings(1e-2, 0.01, 0.2),
            tmp_path / name,
            Reader(),
        )
        trainer.restore()
        for report in trainer.steps():
            if report.step == stop_after:
                break
        return trainer

    return go


def bits(trainer):
    """Everything that must be equal between equal runs, whoever filled the store."""
    *first, progress, key = result(trainer)
    counted = {name: value for name, value in progress.items() if name not in PREFIX_COUNTS}
    return *first, counted, key


def losses(trainer):
    rows = [float(row["train_loss"]) for row in trainer.curve.rows()]
    return rows + [float(row["val_loss"]) for row in trainer.validations.rows()]


def hit_rate(trainer):
    return trainer.prefix.facts()["cache_hit_rate"]


WAYS = {
    "lora, dropout": {"adapter": {"dropout": 0.4}},
    "rslora, accumulated": {"adapter": KINDS["rslora"], "grad_accumulation_steps": 5},
    "dora, packed": {"adapter": KINDS["dora"], "arrangement": "packed"},
    "head": {"adapter": KINDS["head"]},
    "tensors": {"adapter": KINDS["tensors"]},
    "checkpointed, packed": {"grad_checkpoint": True, "arrangement": "packed"},
    "quantised": {"adapter": {"quantised": True}},
}


@pytest.fixture
def side_by_side(monkeypatch):
    """Work on two rows, and on two documents, side by side, as with two threads of the BLAS."""
    for module in ("feed", "prefix.replay"):
        monkeypatch.setattr(f"pipeline.train.{module}.num_cpu_streams", lambda: 2)


@pytest.mark.parametrize("way", WAYS)
def test_with_and_without_are_equal_and_a_repeat_is_so_to_the_bit(run, side_by_side, way):
    without = run("without", cache="", **WAYS[way])
    first, second = run("first", **WAYS[way]), run("second", **WAYS[way])
    np.testing.assert_allclose(losses(first), losses(without), rtol=1e-5)
    for name, value in trainable_arrays(without.model).items():
        other = trainable_arrays(first.model)[name]
        np.testing.assert_allclose(np.array(other), np.array(value), atol=2e-4, err_msg=name)
    assert bits(first) == bits(second)
    assert (hit_rate(first) < 1, hit_rate(second)) == (True, 1)
    assert hit_rate(without) is None


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_sixteen_bits_are_stored_as_they_are(run, tunable, dtype):
    model = tunable()
    model.set_dtype(dtype)
    trainer = run("a", num_steps=1, model=model)
    tokens, store = (
        trainer.feed.data.validation,
        trainer.prefix.stores[trainer.feed.data.validation],
    )
    found = mx.array(store.read(2)).view(dtype)
    expected = trainer.prefix.prefix.record(mx.array(tokens.tokens(2)[None, :-1]))[0]
    assert (found.dtype, expected.dtype) == (dtype, dtype)
    assert mx.array_equal(found, expected)
    (batch,) = trainer.feed.micro_batches(1)[0]
    hidden = trainer.prefix.gather(trainer.feed.data.train, batch)
    assert hidden.dtype == dtype
    assert mx.array_equal(mx.any(hidden != 0, axis=-1), mx.array(batch.segment_ids > 0))


@pytest.mark.parametrize(
    ("arrangement", "stop_after"), [("bucketed", 1), ("packed", 4), ("bucketed", 6)]
)
def test_a_stopped_run_ends_with_the_same_bits(run, arrangement, stop_after):
    changes = {"arrangement": arrangement, "adapter": {"num_layers": 2, "dropout": 0.3}}
    whole = bits(run("whole", cache="one", **changes))
    mx.random.seed(99)
    run("stopped", cache="other", stop_after=stop_after, **changes)
    mx.random.seed(77)
    assert bits(run("stopped", cache="other", **changes)) == whole


def test_who_filled_the_store_and_how_much_of_it_changes_no_bit(run, side_by_side):
    whole = bits(run("cold", cache="one"))
    run("others", cache="two", seed=8, num_steps=2, adapter={"rank": 2, "num_layers": 1})
    assert bits(run("warm", cache="two")) == whole
    assert bits(run("without room", cache="three", gb=1e-9)) == whole


def test_a_sweep_computes_each_document_once(run):
    first = run("first")
    assert hit_rate(first) == pytest.approx(1 - 30 / first.progress.prefix_lookups)  # 24 + 6
    assert hit_rate(run("rank", adapter={"mode": "dora", "rank": 2, "alpha": 1.0})) == 1
    assert hit_rate(run("seed", seed=11, batch_size=7, arrangement="packed")) == 1


def test_a_run_that_is_shorter_than_an_epoch_computes_only_what_it_uses(run):
    trainer = run("short", num_steps=2)
    store = trainer.prefix.stores[trainer.feed.data.train]
    used = {
        document
        for step in (1, 2)
        for (batch,) in trainer.feed.micro_batches(step)
        for document in batch.documents
    }
    assert {index for index in range(24) if store.read(index) is not None} == used


@pytest.mark.parametrize("what", ["base", "blocks", "data", "borders", "numerics"])
def test_nothing_is_taken_that_was_made_of_something_else(run, stores, monkeypatch, what):
    first = run("first", num_steps=2)
    other = {"adapter": {"num_layers": 2}} if what == "blocks" else {}
    if what == "base":
        other = {"base": "another"}
    if what == "data":
        tokens = stores[0].folder / "tokens.bin"
        tokens.write_bytes(bytes([4, 0]) + tokens.read_bytes()[2:])
    if what == "borders":
        table = np.fromfile(stores[0].folder / "documents.bin", DOCUMENT)
        table["length"][0] -= 1
        table.tofile(stores[0].folder / "documents.bin")
    if what == "numerics":
        monkeypatch.setattr(
            "pipeline.train.prefix.replay.numerics_fingerprint", lambda: {"mlx": "0"}
        )
    second = run("second", num_steps=2, **other)
    names = [trainer.prefix.facts()["stores"]["train"] for trainer in (first, second)]
    assert names[0] != names[1]


def test_documents_are_worked_on_side_by_side(run, side_by_side, monkeypatch):
    together, real = [], CpuStreams.side_by_side

    def seen(self, work, items):
        if work is mx.eval:
            together.append(len(items))
        real(self, work, items)

    monkeypatch.setattr(CpuStreams, "side_by_side", seen)
    run("a", num_steps=0)
    assert sum(together) == 6
    assert set(together) == {2}


def test_blocks_that_are_left_out_ask_for_nothing(tunable):
    prefix = find_prefix(model := tunable())
    hidden = prefix.record(TOKENS)
    with prefix.replay(hidden), outputs_noted(blocks(model)) as outputs:
        forward(model, TOKENS)
    assert [output is hidden for output in outputs] == [True] * 3 + [False]


def test_it_is_said_once_what_is_frozen(run):
    (note,) = run("lora", num_steps=1).observer.notes
    assert note.startswith("3 of 4 blocks are frozen: a document goes through them once")
    (note,) = run("embedding", num_steps=1, adapter=UNUSABLE["embedding"][0]).observer.notes
    assert note.endswith("no activations are kept: what enters the blocks is trained too")
    assert run("full", num_steps=1, adapter={"mode": "full"}).observer.notes == []
    assert run("off", cache="", num_steps=1).observer.notes == []


def test_a_run_shorter_than_an_epoch_is_told_what_it_pays(run):
    advice = "this run has 0.4 epochs, so only other runs gain from that: train.prefix_cache_gb=0"
    (note,) = run("short", num_steps=2).observer.notes
    assert advice in note
    (note,) = run("long", num_steps=7).observer.notes
    assert "epochs" not in note


def test_a_folder_that_cannot_be_used_is_said_and_changes_no_bit(run, tmp_path, caplog):
    whole = bits(run("whole"))
    (tmp_path / "file").write_text("")
    trainer = run("nowhere", cache="file")
    assert bits(trainer) == whole
    assert hit_rate(trainer) == 0
    assert "activations cannot be kept there" in caplog.text


def test_facts_are_for_json(run):
    trainer = run("a", num_steps=1)
    facts = json.loads(json.dumps(trainer.prefix.facts()))
    assert facts["frozen_blocks"] == 3
    assert facts["stores"].keys() == {"train", "validation"}
    assert facts["cache_bytes"] == sum(s.num_bytes for s in trainer.prefix.stores.values()) > 0
    assert facts["seconds"] > 0


def test_a_run_in_several_processes_ends_with_the_same_bits(training, undisturbed):
    changes = {"lora__num_layers": 1, "data__arrangement": "bucketed"}
    disturbed = {"settings": {"reload_interval_steps": 4}, "debug__kill_at_step": 5}
    done = training(**disturbed, **changes).complete()
    assert (done.metrics()["reloads"], done.metrics()["recoveries"]) == (2, 1)
    assert 0 < done.metrics()["prefix"]["cache_hit_rate"] < 1
    assert done.result() == undisturbed(**changes)
