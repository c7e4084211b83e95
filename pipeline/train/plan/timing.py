"""How long a training takes: its last two blocks are timed, without the weights of the model.

A model cut down to its last block, and one cut down to its last two, are trained for some steps.
The difference is the time of a block, and what is left that of embedding, head and update. Weights
have one value everywhere: how long a product takes does not depend on it.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.data.batches import Batch, MicroBatch
from pipeline.device import mx, nn
from pipeline.machine import available_memory_bytes
from pipeline.model.blueprint import blueprint
from pipeline.model.network.adapters import attach
from pipeline.model.network.forward import checkpoint_blocks, evaluation_mode
from pipeline.model.network.tree import blocks, materialize, named_arrays, put_arrays
from pipeline.model.source.folder import read_config
from pipeline.objective.likelihood import masked_losses
from pipeline.optim.optimizer import make_optimizer
from pipeline.train.plan.predict import blank_batch, num_bytes
from pipeline.train.plan.request import PlanRequest
from pipeline.train.plan.roofline import Shape, forward_flops, step_flops
from pipeline.train.step import TrainStep

MOST_TOKENS, MOST_WIDTH = 1024, 512
"""Of the batch that is timed; longer steps are scaled up."""
MOST_RUNS, ENOUGH_SECONDS = 3, 1.0
VALUE = 0.01
"""Of all weights: no loss becomes infinite with it."""
MEMORY_SHARE = 0.4
"""Of the machine's memory, which the blocks that are timed may take."""


@dataclass(frozen=True)
class Rows:
    """Rows of documents, such as those of a step.

    Attributes:
        count: of the rows; a mean may be no whole number.
        width: tokens of a row, padding included.
        tokens: of the documents in them.
    """

    count: float
    width: float
    tokens: float


NO_ROWS = Rows(0, 1, 0)


@dataclass(frozen=True)
class Seconds:
    """What a part of the model takes for the rows that were timed."""

    step: float
    forward: float

    def __sub__(self, other: "Seconds") -> "Seconds":
        """Return the difference, which noise may not make negative."""
        return Seconds(max(0.0, self.step - other.step), max(0.0, self.forward - other.forward))


@dataclass(frozen=True)
class Timing:
    """The speed of a model on this machine.

    Attributes:
        shape: of the whole model.
        checkpointed: whether blocks are recomputed.
        rows: that were timed.
        one: a model of one block.
        block: a further block.
    """

    shape: Shape
    checkpointed: bool
    rows: Rows
    one: Seconds
    block: Seconds

    def step_seconds(self, rows: Rows, is_cached: bool) -> float:
        """Return how long a step takes.

        Args:
            rows: of the step.
            is_cached: whether frozen blocks are left out.
        """
        trained = max(1, self.shape.num_trained)
        seconds = self.one.step + (trained - 1) * self.block.step
        if not is_cached:
            seconds += (len(self.shape.blocks) - trained) * self.block.forward
        wide, timed = (
            step_flops(self.shape, 1, round(width), self.checkpointed)
            for width in (rows.width, self.rows.width)
        )
        return seconds * rows.count / self.rows.count * wide / timed

    def forward_seconds(self, rows: Rows) -> float:
        """Return how long it takes to measure the losses of rows, all blocks run."""
        seconds = self.one.forward + (len(self.shape.blocks) - 1) * self.block.forward
        wide, timed = (
            forward_flops(self.shape, round(width), round(width))
            for width in (rows.width, self.rows.width)
        )
        return seconds * rows.count / self.rows.count * wide / timed


def time_model(
    request: PlanRequest, shape: Shape, step: Rows, target_share: float
) -> Timing | None:
    """Time the last blocks of a model; None where that cannot be done here.

    Args:
        request: of the training.
        shape: of the whole model.
        step: rows of a step.
        target_share: of the tokens, those whose loss counts.
    """
    asked = timed_request(request, step)
    batches = tuple(sparse(blank_batch(asked, rows), target_share) for rows in asked.stream_rows)
    try:
        one = time_blocks(asked, batches, 1)
        two = time_blocks(asked, batches, 2) if len(shape.blocks) > 1 else one
    except Exception:  # each architecture is cut in its own way, or not at all
        return None
    if one is None or two is None:
        return None
    rows = Rows(asked.rows, asked.width, asked.tokens)
    return Timing(shape, request.grad_checkpoint, rows, one, two - one)


def timed_request(request: PlanRequest, step: Rows) -> PlanRequest:
    """Ask for one micro-batch, with as many rows as are enough, of the usual width."""
    width = min(round(step.width), MOST_WIDTH)
    rows = min(request.rows, max(request.num_streams, MOST_TOKENS // width))
    return dataclasses.replace(
        request, batch_size=rows, grad_accumulation_steps=1, longest_tokens=width + 1
    )


def sparse(batch: Batch, target_share: float) -> Batch:
    """Leave so many targets at the end of each row, one at least."""
    mask, width = batch.loss_mask.copy(), batch.loss_mask.shape[1]
    mask[:, : min(round((1 - target_share) * width), width - 1)] = 0
    return dataclasses.replace(batch, loss_mask=mask)


def time_blocks(asked: PlanRequest, batches: MicroBatch, count: int) -> Seconds | None:
    """Time a model of so many blocks; None where its weights would take too much memory."""
    model = blueprint(read_config(asked.folder), asked.dtype, asked.base_bits)
    attach(model, asked.adapter)
    cut(model, count)
    if num_bytes(named_arrays(model.parameters())) > MEMORY_SHARE * available_memory_bytes():
        return None
    fill(model)
    if asked.grad_checkpoint:
        checkpoint_blocks(model)
    optimizer = make_optimizer(asked.optim, 1)
    optimizer.init(model.trainable_parameters())
    step = TrainStep(model, optimizer, 1.0, label_smoothing=asked.label_smoothing, is_proven=False)
    model.train()
    seconds = fastest(lambda: step([batches]))

    def measure() -> None:
        for batch in batches:
            masked_losses(step.body_and_head, batch)

    with evaluation_mode(model):
        return Seconds(seconds, fastest(measure))


def cut(model: nn.Module, count: int) -> None:
    """Leave only the last blocks of a model."""
    first = blocks(model)[0]
    for _, module in model.named_modules():
        for name, value in module.items():
            if isinstance(value, list) and value and value[0] is first:
                module[name] = value[-count:]
    assert len(blocks(model)) == count


def fill(model: nn.Module) -> None:
    """Put one value in the place of all weights."""
    arrays = named_arrays(model.parameters())
    plain = {
        name: mx.full(
            value.shape, VALUE if mx.issubdtype(value.dtype, mx.floating) else 1, value.dtype
        )
        for name, value in arrays.items()
    }
    put_arrays(model, plain)
    materialize(model)


def fastest(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few runs; a first one is not timed."""
    run()
    found = list[float]()
    while len(found) < MOST_RUNS and sum(found) < ENOUGH_SECONDS:
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return min(found)
