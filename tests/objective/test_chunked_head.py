"""The loss by chunks is the plain one, over all logits at once, and takes no memory for them."""

import dataclasses

import numpy as np
import pytest

from pipeline.data.batches import Batch
from pipeline.device import mlx_memory, mx, nn, reset_peak_memory, tree_map
from pipeline.model.body_and_head import BodyAndHead
from pipeline.model.network.adapters import apply
from pipeline.model.network.build import build
from pipeline.model.network.forward import forward
from pipeline.model.network.tree import named_arrays, trainable_arrays
from pipeline.model.scratch import initialize
from pipeline.objective import chunked_head
from pipeline.objective.chunked_head import chunk_rows, counted, evaluate, loss_sums, target_losses
from pipeline.objective.likelihood import masked_losses
from pipeline.train.plan.trace import trace
from tests.model.test_body_and_head import LIKE_LLAMA, PositionedHead, made
from tests.support import plain
from tests.support.modes import settings_of
from tests.test_gradients import moved_away

CHUNK = 5


def batch_of(num_targets, rows=3, width=8, vocab_size=64, packed=False, seed=0):
    """Make a batch of random tokens in which so many places count, with weights of their own."""
    generator, shape = np.random.default_rng(seed), (rows, width)
    inputs, targets = generator.integers(0, vocab_size, (2, *shape)).astype(np.int32)
    mask = np.zeros(rows * width, np.float32)
    mask[generator.permutation(mask.size)[:num_targets]] = 1
    weights = generator.uniform(0.1, 1.9, shape).astype(np.float32)
    segments = np.repeat(np.arange(1, rows + 1, dtype=np.int32)[:, None], width, axis=1)
    if packed:
        segments = 2 * segments - (np.arange(width) < width // 2).astype(np.int32)
    documents = np.arange(segments.max(), dtype=np.int64)
    return Batch(inputs, targets, mask.reshape(shape), segments, weights, documents)


def plain_sums(model, batch, label_smoothing=0.0):
    segment_ids = mx.array(batch.segment_ids) if batch.is_packed else None
    logits = forward(model, mx.array(batch.inputs), segment_ids)
    arrays = (mx.array(part) for part in (batch.targets, batch.loss_mask, batch.weights))
    return plain.loss_sums(logits, *arrays, label_smoothing)


def both(model, batch, label_smoothing=0.0):
    """Give sums and gradients by chunks, and the plain ones."""
    body_and_head = BodyAndHead.proven(model)
    by_chunks = nn.value_and_grad(model, lambda: loss_sums(body_and_head, batch, label_smoothing))
    (*sums, stages), gradients = by_chunks()
    evaluate(stages)
    wanted, others = nn.value_and_grad(model, lambda: plain_sums(model, batch, label_smoothing))()
    mx.eval(sums, gradients, wanted, others)
    return (sums, named_arrays(gradients)), (wanted, named_arrays(others))


def distance(found, wanted):
    """Give the length of the difference of two gradients, as a share of the second's."""
    pairs = [(found[name].astype(mx.float32), wanted[name].astype(mx.float32)) for name in wanted]
    square = sum(float(mx.square(one - other).sum()) for one, other in pairs)
    return (square / sum(float(mx.square(other).sum()) for _, other in pairs)) ** 0.5


def assert_equal(found, wanted, tolerance=1e-5):
    (sums, gradients), (others, expected) = found, wanted
    assert [float(value) for value in sums] == pytest.approx(
        [float(value) for value in others], rel=1e-6
    )
    assert gradients.keys() == expected.keys()
    for name in expected:
        assert gradients[name].dtype == expected[name].dtype
        assert distance({name: gradients[name]}, {name: expected[name]}) < tolerance, name


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr(chunked_head, "chunk_rows", lambda *_: CHUNK)


MODELS = {
    "tied": ({}, "lora", {}),
    "untied": ({"tie_word_embeddings": False}, "lora", {}),
    "adapted head": (
        {"tie_word_embeddings": False},
        "lora",
        {"targets": ("lm_head", "q_proj")},
    ),
    "adapted table": ({}, "lora", {"targets": ("embed_tokens", "q_proj")}),
    "dora on the table": ({}, "dora", {"targets": ("embed_tokens", "q_proj")}),
    "head": ({}, "head", {}),
    "full, tied": ({}, "full", {}),
    "full, untied": ({"tie_word_embeddings": False}, "full", {}),
    "head alone": ({"tie_word_embeddings": False}, "tensors", {"tensors": ("lm_head.weight",)}),
    "soft-capped": (LIKE_LLAMA["soft-capped"], "full", {}),
    "logits scaled": (LIKE_LLAMA["logits scaled"], "lora", {}),
    "logits divided": (LIKE_LLAMA["logits divided"], "full", {}),
    "hidden states scaled": (LIKE_LLAMA["hidden states scaled"], "full", {}),
}


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("config", "mode", "changes"), MODELS.values(), ids=MODELS)
def test_sums_and_gradients_are_those_of_the_plain_form(
    tiny_config, short_chunks, config, mode, changes, label_smoothing
):
    model = made(tiny_config, config)
    apply(model, settings_of(mode, **changes), seed=1)
    moved_away(model)
    assert_equal(*both(model, batch_of(17), label_smoothing))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tied", [True, False])
def test_quantised_heads(tiny_config, short_chunks, bits, tied):
    model = made(tiny_config, {"tie_word_embeddings": tied})
    nn.quantize(model, group_size=32, bits=bits)
    apply(model, settings_of("lora"), seed=1)
    moved_away(model)
    assert_equal(*both(model, batch_of(17)))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 24])
def test_borders_of_chunks(tiny_config, short_chunks, count, packed):
    model = initialize(tiny_config, seed=0)
    apply(model, settings_of("full"), seed=1)
    assert_equal(*both(model, batch_of(count, packed=packed)))


def test_a_model_that_cannot_be_split_is_trained_all_the_same(tiny_model, short_chunks):
    model = PositionedHead(tiny_model)
    model.unfreeze()
    assert BodyAndHead.proven(model).problem
    assert_equal(*both(model, batch_of(17)))


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_where_nothing_counts_the_loss_is_zero_and_so_is_its_gradient(tiny_config, mode):
    model = initialize(tiny_config, seed=0)
    apply(model, settings_of(mode), seed=1)
    moved_away(model)
    body_and_head, batch = BodyAndHead.proven(model), batch_of(0)
    (*sums, stages), tree = nn.value_and_grad(model, lambda: loss_sums(body_and_head, batch))()
    assert [float(value) for value in sums] == [0.0, 0.0]
    gradients = named_arrays(tree)
    assert gradients.keys() == trainable_arrays(model).keys()
    assert not any(mx.any(value != 0) for value in gradients.values())  # NaN is not 0 either
    assert stages == []
    assert not masked_losses(body_and_head, batch).any()


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_bfloat16_is_as_near_to_float32_as_the_plain_form(tiny_config, short_chunks, mode):
    model = initialize({**tiny_config, "hidden_size": 64}, seed=0)
    apply(model, settings_of(mode), seed=1)
    moved_away(model)
    batch = batch_of(24)
    model.set_dtype(mx.bfloat16)
    low = both(model, batch)
    model.set_dtype(mx.float32)
    (exact, gradients) = both(model, batch)[1]
    losses, errors = zip(
        *((float(sums[0]), distance(found, gradients)) for sums, found in low), strict=True
    )
    assert losses[0] == pytest.approx(float(exact[0]), rel=3e-3)
    assert errors[0] < min(0.05, 1.2 * errors[1])


def test_weights_count_and_the_reported_sum_does_not_have_them(tiny_model):
    body_and_head, batch = BodyAndHead(tiny_model), batch_of(17)
    doubled = dataclasses.replace(batch, weights=2 * batch.weights)
    (one, reported, _), (two, same, _) = (
        loss_sums(body_and_head, each) for each in (batch, doubled)
    )
    assert float(two) == pytest.approx(2 * float(one), rel=1e-6)
    assert float(reported) == float(same)


def test_losses_of_places_are_those_of_the_plain_form(tiny_model, short_chunks):
    batch = batch_of(17, packed=True)
    found = masked_losses(BodyAndHead(tiny_model), batch)
    logits = forward(tiny_model, mx.array(batch.inputs), mx.array(batch.segment_ids))
    wanted = np.array(plain.token_losses(logits, mx.array(batch.targets))) * batch.loss_mask
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_only_rows_that_count_reach_the_head(tiny_model, short_chunks, monkeypatch):
    sizes, head = [], BodyAndHead.head

    def counting(self, hidden):
        sizes.append(len(hidden))
        return head(self, hidden)

    body_and_head = BodyAndHead(tiny_model)
    monkeypatch.setattr(BodyAndHead, "head", counting)
    loss_sums(body_and_head, batch_of(17))
    assert sizes == [CHUNK, CHUNK, CHUNK, 2]
    sizes.clear()
    target_losses(body_and_head, batch_of(6))
    assert sizes == [CHUNK, 1]
    assert len(counted(batch_of(6))) == 6


def test_what_does_not_count_may_be_anything(tiny_model):
    body_and_head, batch = BodyAndHead(tiny_model), batch_of(17)
    wild = np.where(batch.loss_mask > 0, batch.targets, 1 << 30).astype(np.int32)
    other = dataclasses.replace(batch, targets=wild)
    one, two = (float(loss_sums(body_and_head, each)[0]) for each in (batch, other))
    assert one == two


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_every_exponential_is_computed_once(tiny_config, short_chunks, mode):
    """The head has an exponential for each logit, one for each target, and no other ones."""
    model = initialize(tiny_config, seed=0)
    apply(model, settings_of(mode), seed=1)
    body_and_head = BodyAndHead(model)

    def exponentials(batch):
        def run(_):
            (_, reported, _), tree = nn.value_and_grad(
                model, lambda: loss_sums(body_and_head, batch)
            )()
            return [reported, *named_arrays(tree).values()]

        graph = trace(run, [mx.zeros(1)])
        nodes = [node for node in graph.nodes if node.primitive in ("Softmax", "Exp", "LogSumExp")]
        return sum(graph.arrays[node.inputs[0]].size for node in nodes)

    more = exponentials(batch_of(4 * CHUNK)) - exponentials(batch_of(CHUNK))
    assert more == 3 * CHUNK * (body_and_head.vocab_size + 1)


@pytest.mark.parametrize(
    ("vocab_size", "num_trained", "num_streams", "rows"),
    [
        (640, 0, 1, 3276),
        (640, 0, 2, 1638),
        (8192, 0, 1, 256),
        (8192, 0, 4, 64),
        (128256, 0, 1, 32),
        (128256, 0, 4, 32),
        (8192, 8192 * 512, 1, 512),
        (8192, 8192 * 512, 2, 512),  # as large as the gradient that each stream has anyway
        (8192, 8192 * 100, 2, 128),
        (128256, 128256 * 256, 1, 256),
        (128256, 128256 * 8, 1, 32),
    ],
)
def test_rows_of_a_chunk(vocab_size, num_trained, num_streams, rows):
    assert chunk_rows(vocab_size, num_trained, num_streams) == rows


# Memory

VOCAB = 16384


def large_head(tiny_config, mode="lora"):
    model = initialize({**tiny_config, "vocab_size": VOCAB, "num_hidden_layers": 1}, seed=0)
    apply(model, settings_of(mode), seed=1)
    mx.eval(model.parameters())
    return model


def peak_of(work):
    """Give what some work takes beyond what there is already, in bytes."""
    work()
    before = mlx_memory().active_bytes
    reset_peak_memory()
    work()
    return mlx_memory().peak_bytes - before


def peaks_by_tokens(model, function):
    """Give the peak for 8 x 32 tokens, and how it grows to four times as many, in logits of it."""
    batches = [batch_of(rows * 32, rows=rows, width=32) for rows in (8, 32)]
    few, many = (peak_of(lambda each=each: function(each)) for each in batches)
    return few, (many - few) / (24 * 32 * VOCAB * 4)


@pytest.mark.parametrize(
    ("mode", "form"), [("lora", "chunks"), ("full", "chunks"), ("lora", "plain")]
)
def test_the_peak_does_not_grow_with_vocabulary_times_tokens(tiny_config, mode, form):
    model = large_head(tiny_config, mode)
    body_and_head = BodyAndHead(model)

    def by_chunks(batch):
        losses, gradients = nn.value_and_grad(model, lambda: loss_sums(body_and_head, batch))()
        stages = losses[2]
        del losses
        evaluate(stages)
        mx.eval(gradients)

    def plainly(batch):
        mx.eval(nn.value_and_grad(model, lambda: plain_sums(model, batch))())

    few, growth = peaks_by_tokens(model, by_chunks if form == "chunks" else plainly)
    if form == "plain":
        assert growth > 1.5  # what is measured can grow
    else:
        assert growth < 0.1
        assert few < 4 * max(chunk_rows(VOCAB) * VOCAB, body_and_head.num_trained) * 4 + 4_000_000


def test_nor_does_that_of_a_validation(tiny_config):
    model = large_head(tiny_config)
    body_and_head = BodyAndHead(model)
    few, growth = peaks_by_tokens(model, lambda batch: masked_losses(body_and_head, batch))
    assert growth < 0.1
    assert few < 4 * chunk_rows(VOCAB) * VOCAB * 4


def test_nothing_of_a_micro_batch_is_left(tiny_config):
    model = large_head(tiny_config)
    body_and_head, batch = BodyAndHead(model), batch_of(64, rows=2, width=32)

    def work():
        (*_, stages), gradients = nn.value_and_grad(
            model, lambda: loss_sums(body_and_head, batch)
        )()
        evaluate(stages)
        mx.eval(tree_map(lambda value: value, gradients))

    work()
    before = mlx_memory().active_bytes
    for _ in range(3):
        work()
    assert mlx_memory().active_bytes == before


def test_a_gemma_is_built_as_it_is_published(tiny_config):
    """Its head is soft-capped, which changes gradients: the test above must see that."""
    capped = build({**tiny_config, **LIKE_LLAMA["soft-capped"]})
    assert float(mx.abs(forward(capped, mx.array([[1, 2]]))).max()) < 3.0
