"""A training step on a model without weights: each of its evaluations is traced.

What is traced is the step itself, on the device at hand, so that whatever a model, an adapter,
checkpointing or a backend does to memory is in the graph.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipeline.data.batches import Batch
from pipeline.device import mx, nn, tree_unflatten
from pipeline.model.forward import evaluation_mode
from pipeline.model.prefix import FrozenPrefix
from pipeline.model.tree import named_arrays, trainable_arrays
from pipeline.objective.chunked_head import EvalOrder, target_losses
from pipeline.optim.optimizer import OptimSettings, make_optimizer
from pipeline.train.plan.liveness import Memory, memory_of
from pipeline.train.plan.recompute import checkpointed_gradients
from pipeline.train.plan.trace import Graph, trace
from pipeline.train.step import TrainStep, global_norm

Run = Callable[..., tuple[list[mx.array], EvalOrder]]
"""What is rehearsed: gives results, and what is evaluated before them."""
NUM_TARGETS = 2.0
"""By which gradients are divided; any number takes the same memory."""


class Rehearsal:
    """Goes through a step; nothing is computed, and the model is left as it was.

    Args:
        model: trainable as it should be trained, its blocks not checkpointed.
        optim: what the optimizer is told.
        checkpointed: whether each block is recomputed in the backward pass.
        label_smoothing: share of each target that is spread over the vocabulary.
        depth: how many frozen blocks are left out of the steps.

    Attributes:
        prefix: the blocks that are left out; None where none are.
        change: what is done to a graph before its memory is counted.
    """

    def __init__(
        self,
        model: nn.Module,
        optim: OptimSettings,
        checkpointed: bool,
        label_smoothing: float = 0.0,
        depth: int = 0,
    ) -> None:
        self.prefix = FrozenPrefix(model, depth) if depth else None
        self.model, self.checkpointed = model, checkpointed
        self.change: Callable[[Graph], Graph] = lambda graph: graph
        self.optimizer = make_optimizer(optim, 1)
        self.optimizer.init(model.trainable_parameters())
        self.step = TrainStep(
            model, self.optimizer, 1.0, label_smoothing=label_smoothing, split_is_proven=False
        )
        self.weights = named_arrays(model.parameters())
        self.trainable = trainable_arrays(model)

    def gradients(
        self, batch: Batch, num_streams: int = 1
    ) -> tuple[mx.array, list[mx.array], EvalOrder]:
        """Give the loss that is reported, the gradient of each weight, and the stages before."""
        if self.checkpointed:
            found, tree = checkpointed_gradients(
                self.model, lambda: self.step.losses(batch, num_streams)
            )
        else:
            found, tree = self.step.loss_and_grad(batch, num_streams)
        _, plain, stages = found
        return plain, list(named_arrays(tree).values()), stages

    def first_micro_batch(self, batch: Batch, num_streams: int = 1) -> Memory:
        """Forward and backward, as `TrainStep.accumulate` has them; only the batch's shape counts.

        Of what is minimised only the gradient is computed.
        """

        def run(*arguments: mx.array) -> tuple[list[mx.array], EvalOrder]:
            self.take(arguments)
            plain, gradients, stages = self.gradients(batch, num_streams)
            return [mx.array(0.0) + plain, *gradients], stages

        arguments = self.held(batch)
        return self.memory(run, arguments, len(arguments), num_streams=num_streams)

    def later_micro_batch(self, batch: Batch) -> Memory:
        """Do the same where gradients of earlier micro-batches are added to."""
        held = self.held(batch)
        count = len(held)

        def run(*arguments: mx.array) -> tuple[list[mx.array], EvalOrder]:
            self.take(arguments)
            plain, gradients, stages = self.gradients(batch)
            total, *sums = arguments[count:]
            added = [mx.add(one, other) for one, other in zip(sums, gradients, strict=True)]
            return [total + plain, *added], stages

        arguments = [*held, mx.array(0.0), *self.trainable.values()]
        return self.memory(run, arguments, count)

    def adding(self, count: int) -> Memory:
        """Add gradients that were made side by side, as `TrainStep.accumulate` does."""
        names = list(self.trainable)

        def run(*arrays: mx.array) -> tuple[list[mx.array], EvalOrder]:
            starts = range(0, count * len(names), len(names))
            columns = [arrays[start : start + len(names)] for start in starts]
            return [
                functools.reduce(mx.add, each[1:], each[0]) for each in zip(*columns, strict=True)
            ], []

        return self.memory(run, [*self.trainable.values()] * count, num_held=0)

    def clipping(self) -> Memory:
        """Take the mean of the gradients and measure it, as `TrainStep.__call__` does."""

        def run(total: mx.array, *sums: mx.array) -> tuple[list[mx.array], EvalOrder]:
            means = [gradient / NUM_TARGETS for gradient in sums]
            loss, norm = total / NUM_TARGETS, global_norm(means)
            return [loss, norm, mx.isfinite(loss) & mx.isfinite(norm), *means], []

        arguments = [mx.array(0.0), *self.trainable.values()]
        return self.memory(run, arguments, num_held=0, num_evaluated=3)

    def update(self) -> Memory:
        """Clip the gradients and update weights and optimizer with them, weight by weight.

        MLX merges equal operations of a graph that it traces, which would change their order. So
        each weight gets a norm, a learning rate and a step of its own here.
        """
        weights, count = list(self.trainable.values()), len(self.trainable)
        remembered = {name: self.optimizer.state[name] for name in self.trainable}
        moments = [value for kinds in remembered.values() for value in kinds.values()]

        def run(*arguments: mx.array) -> tuple[list[mx.array], EvalOrder]:
            starts = range(0, 5 * count, count)
            columns = [arguments[start : start + count] for start in starts]
            rest = iter(arguments[5 * count :])
            new, states = [], []
            for name, gradient, norm, rate, step, weight in zip(remembered, *columns, strict=True):
                state = {kind: next(rest) for kind in remembered[name]}
                (clipped,) = self.step.clipped([gradient], norm)
                new.append(self.optimizer.apply_named(name, clipped, weight, state, rate, step))
                states += state.values()
            return [*new, *states], []

        norms, rates = [mx.array(1.0)] * count, [self.optimizer.learning_rate] * count
        steps = [self.optimizer.step] * count
        arguments = [*weights, *norms, *rates, *steps, *weights, *moments]
        return self.memory(run, arguments, num_held=2 * count)

    def validation(self, batch: Batch, runs_prefix: bool = False) -> Memory:
        """Measure losses, as `masked_losses` does.

        Args:
            batch: only its shape counts.
            runs_prefix: whether frozen blocks are run even where steps leave them out.
        """

        def run(*arguments: mx.array) -> tuple[list[mx.array], EvalOrder]:
            take = self.put if runs_prefix else self.take
            take(arguments)
            return [], target_losses(self.step.split, batch)[1]

        arguments = list(self.weights.values()) if runs_prefix else self.held(batch)
        with evaluation_mode(self.model):
            return self.memory(run, arguments, len(arguments))

    def recording(self, batch: Batch) -> Memory:
        """Run the frozen blocks, as `CachedPrefix.computed` does."""
        assert self.prefix is not None
        prefix, arguments = self.prefix, list(self.weights.values())

        def run(*weights: mx.array) -> tuple[list[mx.array], EvalOrder]:
            self.put(weights)
            return [prefix.record(mx.array(batch.inputs))], []

        return self.memory(run, arguments, len(arguments))

    def held(self, batch: Batch) -> list[mx.array]:
        """Give what is in memory while a batch is worked on: weights, and its activations."""
        if self.prefix is None:
            return list(self.weights.values())
        like = self.prefix.record(mx.array(batch.inputs))
        return [*self.weights.values(), mx.zeros(like.shape, like.dtype)]

    def take(self, arguments: Sequence[mx.array]) -> None:
        """Work with what `held` gave."""
        self.put(arguments[: len(self.weights)])
        if self.prefix is not None:
            self.prefix.hidden = arguments[len(self.weights)]

    def memory(
        self,
        run: Run,
        arguments: list[mx.array],
        num_held: int,
        num_evaluated: int | None = None,
        num_streams: int = 1,
    ) -> Memory:
        """Trace a function and count its memory; the first arguments are needed elsewhere too."""
        sizes: list[int] = []

        def flat(*arrays: mx.array) -> list[mx.array]:
            results, stages = run(*arrays)
            sizes[:] = map(len, stages)
            return [*results, *(array for stage in stages for array in stage)]

        try:
            graph = trace(flat, arguments)
        finally:
            self.put(self.weights.values())
            if self.prefix is not None:
                self.prefix.hidden = None
        names = iter(graph.outputs[len(graph.outputs) - sum(sizes) :])
        stages = [tuple(itertools.islice(names, size)) for size in sizes]
        held = graph.inputs[:num_held]
        return memory_of(self.change(graph), held, num_evaluated, stages, num_streams)

    def put(self, arrays: Iterable[mx.array], names: Iterable[str] | None = None) -> None:
        """Give weights of the model other values; all of them unless named."""
        self.model.update(unflattened(self.weights if names is None else names, arrays))


def unflattened(names: Iterable[str], arrays: Iterable[mx.array]) -> Any:  # noqa: ANN401
    """Make a tree of arrays by their names."""
    return tree_unflatten(list(zip(names, arrays, strict=True)))
