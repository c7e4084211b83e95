"""Train for some steps in a process of its own, and print the peak of MLX's memory.

python -m tests.support.measured_step '{"folder": ..., "mode": ..., ...}' NUM_STEPS
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from pipeline.data.batches import Batch
from pipeline.device import mlx_memory, mx, reset_peak_memory
from pipeline.model.adapters import apply
from pipeline.model.blueprint import blueprint
from pipeline.model.folder import read_config
from pipeline.model.forward import checkpoint_blocks
from pipeline.model.prefix import FrozenPrefix, find_prefix
from pipeline.objective.likelihood import document_losses
from pipeline.optim.optimizer import make_optimizer
from pipeline.train.plan.predict import PlanRequest
from pipeline.train.step import TrainStep
from tests.support.plans import request_of


def batch_of(request: PlanRequest, rows: int, num_lanes: int = 1) -> Batch:
    """Make a batch of random documents of the longest width."""
    shape, generator = (rows, request.width), np.random.default_rng(0)
    ids = generator.integers(3, 60, shape).astype(np.int32)
    ones = np.ones(shape, np.float32)
    segments, documents = np.ones(shape, np.int32), rows
    if request.arrangement == "packed":  # two documents in each row
        segments = np.repeat(np.arange(1, 2 * rows + 1, dtype=np.int32), request.width // 2)
        segments, documents = segments.reshape(shape), 2 * rows
    return Batch(ids, np.roll(ids, -1, 1), ones, segments, ones, np.arange(documents), num_lanes)


def replaying(prefix: FrozenPrefix) -> Callable[[Iterable[Batch]], Iterator[Batch]]:
    """Leave frozen blocks out as `CachedPrefix` does; what they give is taken for every row."""

    def replayed(batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            row = np.array(prefix.record(mx.array(batch.inputs[:1])))
            with prefix.replay(mx.array(row.repeat(len(batch.inputs), axis=0))):
                yield batch

    return replayed


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
    replayed = replaying(find_prefix(model)) if request.cached_prefix else iter
    step = TrainStep(model, optimizer, 1.0, replayed=replayed)
    model.train()
    reset_peak_memory()
    parts = [batch_of(request, rows, len(request.lane_rows)) for rows in request.lane_rows]
    for _ in range(num_steps):
        step(parts * request.num_micro_batches)
    if request.validation_batch_tokens is not None:
        rows = max(1, request.validation_batch_tokens // request.width)
        document_losses(model, replayed([batch_of(request, rows)] * 2))
    return mlx_memory().peak_bytes


if __name__ == "__main__":
    facts = json.loads(sys.argv[1])
    print(measure(request_of(Path(facts.pop("folder")), **facts), int(sys.argv[2])))
