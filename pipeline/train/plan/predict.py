"""How much memory a run takes: every evaluation of a step, rehearsed without weights."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.data.batches import Batch
from pipeline.device import is_cpu, mx
from pipeline.errors import ModelError
from pipeline.model.blueprint import blueprint
from pipeline.model.network.adapters import attach
from pipeline.model.network.forward import random_key, set_random_key
from pipeline.model.network.tree import named_arrays, trainable_arrays
from pipeline.model.source.folder import read_config
from pipeline.train.plan.liveness import Saved
from pipeline.train.plan.rehearsal import Rehearsal
from pipeline.train.plan.request import PlanRequest
from pipeline.train.plan.roofline import Shape, estimated_bytes, shape_of
from pipeline.train.plan.trace import ArrayShape, Graph


@dataclass(frozen=True)
class Prediction:
    """The memory that a run takes.

    Attributes:
        shape: of the model.
        weight_bytes: of the frozen weights.
        trainable_bytes: of the trained weights.
        state_bytes: of the optimizer's state.
        phases: the peak of each evaluation, by its name.
        saved: arrays that the forward pass keeps for the backward pass.
        problem: why the graph could not be traced, so that `phases` is an estimate; empty where it
            was traced.
    """

    shape: Shape
    weight_bytes: int
    trainable_bytes: int
    state_bytes: int
    phases: dict[str, int]
    saved: tuple[Saved, ...]
    problem: str = ""

    @property
    def peak_bytes(self) -> int:
        """The peak that `mx.get_peak_memory` will report."""
        return max(self.phases.values())

    @property
    def peak_phase(self) -> str:
        """Name the evaluation of the peak."""
        return max(self.phases, key=lambda name: self.phases[name])

    @property
    def held_bytes(self) -> int:
        """Count weights, one gradient of each trained one, and the optimizer's state."""
        return self.weight_bytes + 2 * self.trainable_bytes + self.state_bytes


FORWARD_BACKWARD = "forward and backward"


def predict(request: PlanRequest) -> Prediction:
    """Rehearse a run; nothing is computed.

    Raises:
        ModelError: when config.json cannot be read or its architecture is unknown.
        ConfigError: when the adapter does not fit the model.
    """
    config = read_config(request.folder)
    with preserve_random_state():
        model = blueprint(config, request.dtype, request.base_bits)
        attach(model, request.adapter)
        shape = shape_of(model, config, request.adapter.trains_matrices)
        depth = shape.first_trained if request.cached_prefix else 0
        rehearsal = Rehearsal(
            model, request.optim, request.grad_checkpoint, request.label_smoothing, depth
        )
        trainable = num_bytes(trainable_arrays(model))
        prediction = Prediction(
            shape=shape,
            weight_bytes=num_bytes(named_arrays(model.parameters())) - trainable,
            trainable_bytes=trainable,
            state_bytes=num_bytes(named_arrays(rehearsal.optimizer.state)),
            phases={},
            saved=(),
        )
        try:
            return rehearse(request, prediction, rehearsal)
        except (ValueError, ModelError) as error:
            return estimate(request, prediction, str(error))


def predict_validation(request: PlanRequest, longest: int, tokens: int) -> int:
    """Predict the peak of MLX while a tuned model is measured, without anything that trains it.

    Args:
        request: of the training.
        longest: tokens of the longest document.
        tokens: of a batch, if a row has no more.
    """
    asked = dataclasses.replace(request, longest_tokens=longest)
    with preserve_random_state():
        model = blueprint(read_config(asked.folder), asked.dtype, asked.base_bits)
        attach(model, asked.adapter)
        batch = blank_batch(asked, max(1, tokens // asked.width))
        try:
            return Rehearsal(model, asked.optim, checkpointed=False).validation(batch).peak_bytes
        except (ValueError, ModelError):  # as in `predict`; a step takes more than its forward pass
            return predict(dataclasses.replace(asked, batch_size=1)).peak_bytes


def predict_benchmark(request: PlanRequest) -> int:
    """Predict the peak of MLX in steps of the benchmark: all blocks run, and nothing is validated.

    Args:
        request: of the training.
    """
    alone = dataclasses.replace(
        request, validation_batch_tokens=None, cached_prefix=False, scores_conflicts=False
    )
    return predict(alone).peak_bytes


def rehearse(request: PlanRequest, found: Prediction, rehearsal: Rehearsal) -> Prediction:
    """Trace each evaluation of a step, and add what else is in memory at that time."""
    if request.fused_attention:
        rehearsal.change = lambda graph: without_scores(graph, request.width)
    stream_rows = request.stream_rows
    sizes = {rows: blank_batch(request, rows) for rows in stream_rows}
    parts = {rows: rehearsal.micro_batch(batch, len(stream_rows)) for rows, batch in sizes.items()}
    weights = found.weight_bytes + found.trainable_bytes
    own = sum(parts[rows].peak_bytes - weights for rows in stream_rows)
    is_summed = request.num_micro_batches > 1 or len(stream_rows) > 1
    phases = {
        FORWARD_BACKWARD: weights + own + found.state_bytes,
        "clipping": rehearsal.clipping(is_summed).peak_bytes + weights + found.state_bytes,
        "update": rehearsal.update(is_summed).peak_bytes + found.weight_bytes,
    }
    phases |= summing(request, found, rehearsal, phases[FORWARD_BACKWARD])
    if rehearsal.prefix is not None:
        alone = rehearsal.recording(blank_batch(request, 1))
        gradients = num_bytes(rehearsal.sums) if request.num_micro_batches > 1 else 0
        documents = request.num_streams * (alone.peak_bytes - weights)
        phases["frozen blocks"] = weights + documents + gradients + found.state_bytes
    if request.validation_batch_tokens is not None:
        rows = max(1, request.validation_batch_tokens // request.width)
        validation = rehearsal.validation(blank_batch(request, rows))
        phases["validation"] = validation.peak_bytes + found.state_bytes
        if request.scores_conflicts and rehearsal.prefix is not None:
            scoring = rehearsal.validation(blank_batch(request, rows), runs_prefix=True)
            phases["conflicts"] = scoring.peak_bytes + found.state_bytes
    saved = tuple(each for rows in stream_rows for each in parts[rows].saved)
    return dataclasses.replace(found, phases=phases, saved=saved)


def summing(
    request: PlanRequest, found: Prediction, rehearsal: Rehearsal, forward_backward: int
) -> dict[str, int]:
    """Predict the peaks of adding gradients: of micro-batches, and of the batches in them."""
    is_accumulated, num_streams = request.num_micro_batches > 1, len(request.stream_rows)
    if num_streams == 1:
        if not is_accumulated:
            return {}
        later = rehearsal.micro_batch(blank_batch(request, request.rows), is_first=False)
        return {"accumulation": later.peak_bytes + found.state_bytes}
    held = found.weight_bytes + found.trainable_bytes + found.state_bytes
    added = rehearsal.adding(num_streams, is_accumulated).peak_bytes
    phases = {"adding of parts": held + added}
    if is_accumulated:
        phases["accumulation"] = forward_backward + num_bytes(rehearsal.sums)
    return phases


def estimate(request: PlanRequest, found: Prediction, problem: str) -> Prediction:
    """Estimate the peak by a formula, for a graph that cannot be traced."""
    peak = estimated_bytes(
        found.shape,
        found.held_bytes,
        request.rows,
        request.width,
        request.grad_checkpoint,
        request.fused_attention or not is_cpu(),
    )
    peak += (len(request.stream_rows) - 1) * found.trainable_bytes
    return dataclasses.replace(found, phases={FORWARD_BACKWARD: peak}, problem=problem)


def blank_batch(request: PlanRequest, rows: int) -> Batch:
    """Make a batch of the longest documents; only its shape counts."""
    zeros = np.zeros((rows, request.width), dtype=np.int32)
    ones = np.ones((rows, request.width), dtype=np.float32)
    documents = np.arange(rows + (request.arrangement == "packed"))  # more than rows: packed
    return Batch(zeros, zeros, ones, zeros, ones, documents)


def without_scores(graph: Graph, width: int) -> Graph:
    """Change a graph so that arrays of width x width in each row and head take no memory."""

    def changed(array: ArrayShape) -> ArrayShape:
        return dataclasses.replace(array, itemsize=0) if is_score(array, width) else array

    arrays = {name: changed(array) for name, array in graph.arrays.items()}
    return dataclasses.replace(graph, arrays=arrays)


def is_score(array: ArrayShape, width: int) -> bool:
    """Whether an array has a number for every pair of positions in a row."""
    return len(array.shape) >= 3 and array.shape[-2:] == (width, width)


def num_bytes(arrays: dict[str, mx.array]) -> int:
    """Count the bytes of arrays."""
    return sum(value.nbytes for value in arrays.values())


@contextlib.contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore the state of the random numbers at the end of the `with`: building a model draws."""
    before = random_key()
    try:
        yield
    finally:
        set_random_key(before)
