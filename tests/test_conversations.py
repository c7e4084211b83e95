"""Conversations from rows to a step: the loss of an answer is the same however it is laid out."""

import dataclasses
import json
import math

import numpy as np
import pytest

from pipeline.data.batches import RowLayout, arrange
from pipeline.data.preparation.documents import cut
from pipeline.data.preparation.prepare import prepare
from pipeline.data.rows.records import parse_record
from pipeline.data.store import TokenStore, TokenStoreWriter
from pipeline.data.tokenize.encode import Encoder
from pipeline.data.tokenize.tokenizer import load_tokenizer, train_tokenizer
from pipeline.device import mx
from pipeline.model.body_and_head import BodyAndHead
from pipeline.model.network.adapters import AdapterSettings, apply
from pipeline.model.scratch import initialize, llama_config
from pipeline.objective.likelihood import masked_losses
from pipeline.optim.optimizer import OptimSettings, make_optimizer
from pipeline.train.step import TrainStep
from tests.support.chat_templates import CHATML, CONTROL_TOKENS
from tests.support.prepared import SETTINGS
from tests.support.small import TINY_SHAPE

LORA = AdapterSettings("lora", 4, 8.0, 0.0, None, ("*",))
WEIGHTS = (1.0, 0.25, 0.0, 0.7, 1.0)
VOCAB_SIZE = 300


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = ["the cat sat on the mat", "where is it? it is in the hat."] * 9
    train_tokenizer(iter(texts), 280, folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": CONTROL_TOKENS})
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="module")
def model():
    return make_model()


def make_model():
    shape = {**TINY_SHAPE, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 512}
    config = llama_config(shape, VOCAB_SIZE, {"bos_token_id": 1, "eos_token_id": 2})
    return initialize(config, seed=0)


def make_step():
    """A model with adapters, and what makes one update of it."""
    trained = make_model()
    apply(trained, LORA, seed=5)
    optimizer = make_optimizer(OptimSettings(1e-2, 0.0, 0.0), 10)
    optimizer.init(trained.trainable_parameters())
    return TrainStep(trained, optimizer, 1.0)


@pytest.fixture(scope="module")
def encoded(tokenizer):
    """Conversations of one to four turns, whose answers have weights from 0 to 1."""
    generator = np.random.default_rng(0)
    words = ["the", "cat", "sat", "on", "mat", "where", "is", "it", "in", "hat"]
    rows = []
    for number in range(12):
        messages = []
        for turn in range(1 + number % 4):
            said = [" ".join(generator.choice(words, generator.integers(1, 9))) for _ in range(2)]
            messages.append({"role": "user", "content": said[0]})
            weight = WEIGHTS[(number + turn) % len(WEIGHTS)] or float(turn == 0)
            messages.append({"role": "assistant", "content": said[1], "weight": weight})
        rows.append(parse_record({"messages": messages, "weight": 0.5 if number % 5 == 0 else 1}))
    return [document for (document,) in Encoder(tokenizer).encode(rows)]


def write(folder, documents):
    with TokenStoreWriter(folder, VOCAB_SIZE) as writer:
        for document in documents:
            writer.add(document.ids, document.target_mask, None, None, document.weights)
    return TokenStore(folder)


def batches_of(store, arrangement="bucketed", micro=1, weights=None):
    return arrange(
        store,
        np.arange(len(store)),
        RowLayout(arrangement, int(store.lengths.max())),
        num_micro_batches=micro,
        weights=weights,
    )


def target_losses(model, batches):
    """Give loss and weight of every target, by document and in order."""
    found = {}
    for (batch,) in batches:
        losses = np.asarray(masked_losses(BodyAndHead(model), batch))
        for number, document in enumerate(batch.documents.tolist(), start=1):
            places = (batch.segment_ids == number) & (batch.loss_mask > 0)
            found[document] = (losses[places], batch.weights[places])
    return [np.stack(found[document]) for document in sorted(found)]


def sums(model, batches):
    """Add up what a step does: the weighted sum, the plain one, and the targets."""
    step = TrainStep(model, make_optimizer(OptimSettings(1e-2, 0.0, 0.0), 1), None)
    found = [step.losses(batch) for (batch,) in batches]
    totals = [float(sum(part[index] for part in found)) for index in (0, 1)]
    return *totals, sum(batch.num_targets for (batch,) in batches)


@pytest.mark.parametrize(
    ("arrangement", "micro"), [("bucketed", 12), ("bucketed", 5), ("packed", 1), ("packed", 3)]
)
def test_an_answer_costs_the_same_in_every_arrangement(
    tmp_path, model, encoded, arrangement, micro
):
    store = write(tmp_path, encoded)
    documents = np.linspace(0.1, 1.9, len(store), dtype=np.float32)
    plain = batches_of(store, weights=documents)
    other = batches_of(store, arrangement, micro, documents)
    for one, two in zip(target_losses(model, plain), target_losses(model, other), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    assert sums(model, other) == pytest.approx(sums(model, plain), rel=1e-6)


def test_the_weighted_sum_is_that_of_the_rows(tmp_path, model, encoded):
    """By hand: each target's loss, alone in its row, times the weights of answer and document."""
    store = write(tmp_path, encoded)
    documents = np.linspace(0.1, 1.9, len(store), dtype=np.float32)
    wanted = 0.0
    for index, (ids, mask, weights) in enumerate(encoded):
        logits = np.array(model(mx.array(ids[None, :-1])), dtype=np.float64)[0]
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses = -logs[np.arange(len(ids) - 1), ids[1:]] * mask[1:]
        wanted += documents[index] * (losses * (1 if weights is None else weights[1:])).sum()
    weighted, plain, targets = sums(model, batches_of(store, "packed", 2, documents))
    assert weighted == pytest.approx(wanted, rel=1e-6)
    assert weighted != pytest.approx(plain, rel=1e-2)
    assert targets == sum(document.target_mask.sum() for document in encoded)


@pytest.mark.parametrize("arrangement", ["bucketed", "packed"])
def test_a_split_conversation_costs_the_same_where_its_context_is(
    tmp_path, model, encoded, arrangement
):
    """With all of its context read again, each target has the loss that it has in the whole."""
    longest = max(len(document.ids) for document in encoded)
    whole = write(tmp_path / "whole", encoded)
    expected = np.concatenate(target_losses(model, batches_of(whole)), axis=1)
    for window in (longest - 1, longest // 2):
        pieces = [
            piece for document in encoded for piece in cut(document, window, True, window - 2)
        ]
        pieces = [piece for piece in pieces if piece.target_mask.any()]
        store = write(tmp_path / f"{window}", pieces)
        assert store.total_targets == whole.total_targets, "every target once"
        found = np.concatenate(target_losses(model, batches_of(store, arrangement, 2)), axis=1)
        np.testing.assert_array_equal(found[1], expected[1], "and by its weight")
        same = np.concatenate([places_before(document, window) for document in encoded])
        assert 0 < same.sum() <= len(same)
        np.testing.assert_allclose(found[0][same], expected[0][same], rtol=1e-6)


def places_before(document, window):
    """Tell which targets lie within the first piece, so that nothing before them was cut off."""
    return np.flatnonzero(document.target_mask) < window


@pytest.mark.parametrize("arrangement", ["bucketed", "packed"])
def test_a_step_is_the_same_in_every_arrangement(tmp_path, encoded, arrangement):
    store = write(tmp_path, encoded)
    results = []
    for batches in (batches_of(store), batches_of(store, arrangement, 3)):
        results.append(make_step()(batches))
    one, two = results
    assert one.train_loss == pytest.approx(two.train_loss, rel=1e-6)
    assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-5)


def test_weights_scale_the_gradient_and_not_what_is_reported(tmp_path, encoded):
    steps = {}
    for name, weight in (("one", None), ("half", 0.5)):
        documents = [
            document._replace(
                weights=None
                if weight is None
                else np.where(document.target_mask, np.float32(weight), np.float32(1))
            )
            for document in encoded
        ]
        steps[name] = make_step()(batches_of(write(tmp_path / name, documents)))
    assert steps["half"].train_loss == steps["one"].train_loss
    assert steps["half"].num_targets == steps["one"].num_targets
    assert steps["half"].grad_norm == pytest.approx(steps["one"].grad_norm / 2, rel=1e-5)


# --- rows without targets, from rows to a step ---


@pytest.mark.parametrize("arrangement", ["bucketed", "packed"])
def test_hopeless_rows_are_counted_and_no_step_is_nan(tmp_path, tokenizer, arrangement):
    tokenizer.save_pretrained(tmp_path / "model")
    user, answer = ({"role": role, "content": "the cat"} for role in ("user", "assistant"))
    long = {"role": "user", "content": "the cat " * 80}
    rows = [{"messages": [{**user, "content": f"cat {n}"}, answer]} for n in range(30)]
    rows += [{"messages": [user, {**answer, "weight": 0}], "cluster": f"{n}"} for n in range(9)]
    rows += [{"messages": [long, answer], "cluster": f"{n}"} for n in range(7)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = dataclasses.replace(
        SETTINGS,
        path=tmp_path / "rows.jsonl",
        tokenizer_source=tmp_path / "model",
        vocab_size=VOCAB_SIZE,
        max_line_bytes=1 << 16,
    )
    (tmp_path / "prepared").mkdir()
    metrics, _ = prepare(settings, tmp_path / "prepared")
    assert (metrics["rows"], metrics["bad_rows"]) == (46, 0)
    assert metrics["rows_without_targets"] == 16
    store = TokenStore(tmp_path / "prepared/train")
    assert store.num_targets.min() > 0, "so that no batch can be without targets"
    step = make_step()
    for micro_batch in batches_of(store, arrangement, len(store)):
        result = step([micro_batch])
        assert result.finite
        assert math.isfinite(result.train_loss)
        assert result.num_targets > 0
