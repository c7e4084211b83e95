"""Tokens that a frozen head cannot tell apart are named before training."""

import math

import numpy as np
import pytest

from pipeline.device import mx
from pipeline.files import write_json
from pipeline.model.body_and_head import BodyAndHead
from pipeline.model.network import upstream
from pipeline.model.network.adapters import apply
from pipeline.model.network.forward import random_key
from pipeline.model.scratch import initialize
from pipeline.model.untrained import alike, token_names, untrained_notice
from tests.support.modes import settings_of

ALIKE = [2, 40, 41, 42, 63]
TARGETS = np.array([2, 5, 7, 41])
LORA = settings_of("lora", targets=("q_proj",))


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(tiny_config, request):
    """A model of which some rows of the head differ by rounding only."""
    model = initialize({**tiny_config, "tie_word_embeddings": request.param}, seed=0)
    matrix = model.model.embed_tokens if request.param else model.lm_head
    noise = 1e-5 * mx.random.normal((len(ALIKE), 16), key=mx.random.key(1))
    matrix.weight[mx.array(ALIKE)] = matrix.weight[2] + noise
    return model


def notice(model, settings, base):
    apply(model, settings, seed=0)
    return untrained_notice(BodyAndHead(model), TARGETS, base)


def test_each_is_named_with_its_loss_and_the_remedy(model, tmp_path):
    added = [{"id": 2, "content": "</s>"}, {"id": 41, "content": "<|im_end|>"}]
    write_json(tmp_path / "tokenizer.json", {"model": {}, "added_tokens": added})
    last = "its row is that of 4 others; while the head is frozen, its loss stays above ln(5) = "
    assert notice(model, LORA, tmp_path).splitlines() == [
        "Targets whose rows of the head are those of tokens that were never trained:",
        f"  '</s>' (id 2): {last}1.61 nats",
        f"  '<|im_end|>' (id 41): {last}1.61 nats",
        "Train the head too (lora.targets with lm_head or embed_tokens, or train.mode=head), or "
        "take a base that knows these tokens.",
    ]


def test_the_loss_is_as_high_as_it_says(model):
    logits = model(mx.array([[1, 2, 3]]))[0].astype(mx.float32)
    losses = mx.logsumexp(logits, axis=-1) - logits[:, 2]
    assert mx.all(losses > math.log(len(ALIKE)) - 1e-3)


def test_the_end_of_a_story_is_found(samples):
    folder = samples / "models/stories260K"
    apply(model := upstream.load_model(folder)[0], LORA, seed=0)
    notice = untrained_notice(BodyAndHead(model), np.array([2, 400, 450]), folder)
    assert "'</s>' (id 2): its row is that of 168 others" in notice
    assert "ln(169) = 5.13 nats" in notice
    assert len(notice.splitlines()) == 3


@pytest.mark.parametrize("kind", ["head", "full", "lora, embeddings"])
def test_a_head_that_is_trained_is_no_matter(tiny_config, tmp_path, kind):
    model = initialize(tiny_config, seed=0)
    model.model.embed_tokens.weight[mx.array(ALIKE)] = model.model.embed_tokens.weight[2]
    assert notice(model, settings_of(kind), tmp_path) is None


def test_a_base_that_knows_its_tokens(tiny_model, tmp_path):
    assert notice(tiny_model, LORA, tmp_path) is None


def test_other_tokens_than_targets_are_no_matter(model, tmp_path):
    apply(model, LORA, seed=0)
    assert untrained_notice(BodyAndHead(model), np.array([5, 7]), tmp_path) is None


def test_many_are_counted(tiny_config, tmp_path):
    model = initialize(tiny_config, seed=0)
    model.model.embed_tokens.weight = mx.ones((64, 16))
    apply(model, LORA, seed=0)
    lines = untrained_notice(BodyAndHead(model), np.arange(64), tmp_path).splitlines()
    assert len(lines) == 1 + 5 + 1 + 1
    assert lines[-2] == "  and 59 more"


def test_no_random_number_is_drawn(model, tmp_path):
    apply(model, settings_of("lora", targets=("q_proj",), dropout=0.5), seed=0)
    body_and_head = BodyAndHead(model)
    before = random_key()
    assert untrained_notice(body_and_head, TARGETS, tmp_path)
    assert random_key() is before


@pytest.mark.parametrize("distance", [1e-4, 1e-2])
def test_rows_are_alike_up_to_a_distance(distance):
    logits = np.random.default_rng(0).normal(size=(500, 16))
    logits[100] = logits[200] + distance * np.sqrt(16) / 4
    found = dict(alike(logits, np.arange(500)))
    assert found == ({100: 1, 200: 1} if distance < 3e-3 else {})


@pytest.mark.parametrize(
    ("tokenizer", "names"),
    [
        ({"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": None}, {0: "a", 1: "b"}),
        ({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}, {0: "a", 1: "b"}),
        (
            {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "<s>"}]},
            {0: "a", 1: "<s>"},
        ),
    ],
)
def test_tokens_have_the_names_of_the_tokenizer(tmp_path, tokenizer, names):
    assert token_names(tmp_path) == {}
    write_json(tmp_path / "tokenizer.json", tokenizer)
    assert token_names(tmp_path) == names
