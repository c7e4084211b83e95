"""Train for some steps in a process of its own, and print the peak of MLX's memory.

python -m tests.support.measured_step '{"folder": ..., "mode": ..., ...}' NUM_STEPS
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.batches import Batch
from pipeline.device import mlx_memory, mx, reset_peak_memory
from pipeline.model.blueprint import blueprint
from pipeline.model.network.adapters import apply
from pipeline.model.network.forward import checkpoint_blocks
from pipeline.model.prefix import FrozenPrefix, find_prefix
from pipeline.model.source.folder import read_config
from pipeline.objective.likelihood import document_losses
from pipeline.optim.optimizer import make_optimizer
from pipeline.train.plan.request import PlanRequest
from pipeline.train.prefix.replay import NoPrefix, Replay
from pipeline.train.step import TrainStep
from tests.support.plans import request_of


def batch_of(request: PlanRequest, rows: int) -> Batch:
    """Make a batch of random documents of the longest width."""
    shape, generator = (rows, request.width), np.random.default_rng(0)
    ids = generator.integers(3, 60, shape).astype(np.int32)
    ones = np.ones(shape, np.float32)
    segments, documents = np.ones(shape, np.int32), rows
    if request.arrangement == "packed":  # two documents in each row
        segments = np.repeat(np.arange(1, 2 * rows + 1, dtype=np.int32), request.width // 2)
        segments, documents = segments.reshape(shape), 2 * rows
    return Batch(ids, np.roll(ids, -1, 1), ones, segments, ones, np.arange(documents))


@dataclass
class FirstRow:
    """Leaves frozen blocks out; the activations of the first row stand for those of all rows."""

    prefix: FrozenPrefix

    @contextmanager
    def of(self, batch: Batch) -> Iterator[None]:
        """Put activations in place of the frozen blocks until the end of the `with`."""
        row = np.array(self.prefix.record(mx.array(batch.inputs[:1])))
        with self.prefix.replay(mx.array(row.repeat(len(batch.inputs), axis=0))):
            yield


def validated(batch: Batch, prefix: Replay) -> Iterator[Batch]:
    """Yield a batch twice, each time with activations in place."""
    for _ in range(2):
        with prefix.of(batch):
            yield batch


def measure(request: PlanRequest, num_steps: int) -> int:
    """Give the peak of so many steps, and of a validation where there is one, in bytes."""
    config = read_config(request.folder)
    model = blueprint(config, request.dtype)
    apply(model, request.adapter, seed=0)
    if request.grad_checkpoint:
        checkpoint_blocks(model)
    optimizer = make_optimizer(request.optim, num_steps)
    optimizer.init(model.trainable_parameters())
    mx.eval(model.parameters(), optimizer.state)
    prefix = FirstRow(find_prefix(model)) if request.cached_prefix else NoPrefix()
    step = TrainStep(model, optimizer, 1.0, prefix=prefix)
    model.train()
    reset_peak_memory()
    micro_batch = tuple(batch_of(request, rows) for rows in request.stream_rows)
    for _ in range(num_steps):
        step([micro_batch] * request.num_micro_batches)
    if request.validation_batch_tokens is not None:
        rows = max(1, request.validation_batch_tokens // request.width)
        document_losses(model, validated(batch_of(request, rows), prefix))
        if request.scores_conflicts:
            document_losses(model, validated(batch_of(request, rows), NoPrefix()))
    return mlx_memory().peak_bytes


if __name__ == "__main__":
    facts = json.loads(sys.argv[1])
    print(measure(request_of(Path(facts.pop("folder")), **facts), int(sys.argv[2])))
