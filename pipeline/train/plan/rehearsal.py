"""A training step on a model without weights: each of its evaluations is traced.

The functions of the step itself are traced, on this machine's device, so that the graph contains
whatever a model, an adapter, recomputation or a backend does to memory.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipeline.data.batches import Batch
from pipeline.device import mx, nn, tree_unflatten
from pipeline.model.network.forward import evaluation_mode
from pipeline.model.network.tree import named_arrays, put_arrays, trainable_arrays
from pipeline.model.prefix import FrozenPrefix
from pipeline.objective.chunked_head import EvalOrder, target_losses
from pipeline.optim.optimizer import OptimSettings, make_optimizer
from pipeline.train.cpu_streams import BatchGraph
from pipeline.train.plan.liveness import Memory, memory_of
from pipeline.train.plan.recompute import Found, checkpointed_gradients
from pipeline.train.plan.trace import Graph, trace
from pipeline.train.step import TrainStep, add, means

Run = Callable[..., tuple[list[mx.array], EvalOrder]]
"""A part of a step: returns its results, and the arrays that are evaluated before them."""
NUM_TARGETS = 2
"""Gradients are divided by this; any number takes the same memory."""


class Rehearsal:
    """Traces the evaluations of a step; nothing is computed, and the model keeps its arrays.

    Args:
        model: trainable as it will be trained, its blocks not checkpointed.
        optim: settings of the optimizer.
        checkpointed: whether each block is recomputed in the backward pass.
        label_smoothing: share of each target that is spread over the vocabulary.
        depth: how many frozen blocks are left out of the steps.

    Attributes:
        sums: arrays like those in which gradients are added.
        prefix: the blocks that are left out; None where no block is.
        change: changes a graph before its memory is counted.
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
        self.model = model
        self.change: Callable[[Graph], Graph] = lambda graph: graph
        self.optimizer = make_optimizer(optim, 1)
        self.optimizer.init(model.trainable_parameters())
        self.step = TrainStep(
            model, self.optimizer, 1.0, label_smoothing=label_smoothing, is_proven=False
        )
        if checkpointed:
            self.step.loss_and_grad = self.recomputed
        self.weights = named_arrays(model.parameters())
        self.trainable = trainable_arrays(model)
        self.sums = {name: value.astype(mx.float32) for name, value in self.trainable.items()}

    def recomputed(self, batch: Batch, num_streams: int) -> tuple[Found, Any]:
        """Compute losses and gradients of a model whose blocks are recomputed."""
        return checkpointed_gradients(self.model, lambda: self.step.losses(batch, num_streams))

    def micro_batch(self, batch: Batch, num_streams: int = 1, is_first: bool = True) -> Memory:
        """Forward and backward, as one graph of `TrainStep.accumulate`.

        Args:
            batch: only its shape counts.
            num_streams: graphs that are evaluated at the same time, of which this is one.
            is_first: whether there are no gradients yet to which these are added.
        """
        held = self.held(batch)
        sums = [mx.array(0.0), *([] if is_first else self.sums.values())]

        def run(*arguments: mx.array) -> tuple[list[mx.array], EvalOrder]:
            self.take(arguments)
            loss_sum, *before = arguments[len(held) :]
            graph = self.step.graph(batch, num_streams)
            loss_sum, tree, order = add(loss_sum, self.tree(before), [graph])
            return [loss_sum, *named_arrays(tree).values()], order

        return self.memory(run, [*held, *sums], len(held), num_streams=num_streams)

    def adding(self, num_streams: int, is_accumulated: bool) -> Memory:
        """Add the gradients of streams, and of what was before, as `TrainStep.accumulate` does."""

        def run(*arrays: mx.array) -> tuple[list[mx.array], EvalOrder]:
            zero = mx.array(0.0)
            trees = map(self.tree, columns(arrays, len(self.trainable)))
            _, tree, _ = add(zero, None, [BatchGraph(zero, tree, []) for tree in trees])
            return list(named_arrays(tree).values()), []

        before = self.sums.values() if is_accumulated else ()
        return self.memory(run, [*before, *list(self.trainable.values()) * num_streams], num_held=0)

    def clipping(self, is_summed: bool) -> Memory:
        """Take the mean of the gradients and its norm, as `TrainStep.__call__` does.

        Args:
            is_summed: whether the gradients are a sum of several.
        """

        def run(loss_sum: mx.array, *sums: mx.array) -> tuple[list[mx.array], EvalOrder]:
            *numbers, tree = means(loss_sum, self.tree(sums), NUM_TARGETS)
            return [*numbers, *named_arrays(tree).values()], []

        arguments = [mx.array(0.0), *self.gradients(is_summed)]
        return self.memory(run, arguments, num_held=0, num_evaluated=3)

    def gradients(self, is_summed: bool) -> list[mx.array]:
        """Return arrays like the gradients of a step."""
        return list((self.sums if is_summed else self.trainable).values())

    def update(self, is_summed: bool) -> Memory:
        """Clip the gradients and update weights and optimizer with them, weight by weight.

        MLX merges equal operations of a graph that it traces, which would change their order. So
        here each weight has a separate norm, learning rate and step, and the loop of the optimizer
        cannot be called.

        Args:
            is_summed: whether the gradients are a sum of several.
        """
        weights, count = list(self.trainable.values()), len(self.trainable)
        remembered = {name: self.optimizer.state[name] for name in self.trainable}
        moments = [value for kinds in remembered.values() for value in kinds.values()]

        def run(*arguments: mx.array) -> tuple[list[mx.array], EvalOrder]:
            each = columns(arguments[: 5 * count], count)
            rest = iter(arguments[5 * count :])
            new, states = [], []
            for name, gradient, norm, rate, step, weight in zip(remembered, *each, strict=True):
                state = {kind: next(rest) for kind in remembered[name]}
                (clipped,) = self.step.clipped([gradient], norm)
                new.append(self.optimizer.apply_named(name, clipped, weight, state, rate, step))
                states += state.values()
            return [*new, *states], []

        norms, rates = [mx.array(1.0)] * count, [self.optimizer.learning_rate] * count
        steps = [self.optimizer.step] * count
        arguments = [*self.gradients(is_summed), *norms, *rates, *steps, *weights, *moments]
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
            return [], target_losses(self.step.body_and_head, batch)[1]

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
        """List what is in memory during a batch: weights, and the activations it starts from."""
        if self.prefix is None:
            return list(self.weights.values())
        like = self.prefix.record(mx.array(batch.inputs))
        return [*self.weights.values(), mx.zeros(like.shape, like.dtype)]

    def take(self, arguments: Sequence[mx.array]) -> None:
        """Put the arrays that `held` lists into the model."""
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
        """Trace a part of a step and count its memory.

        Args:
            run: what is traced.
            arguments: of `run`.
            num_held: how many arguments stay in memory, from the first on.
            num_evaluated: how many results are evaluated; None: all.
            num_streams: graphs that are evaluated at the same time, of which this is one.
        """
        sizes: list[int] = []

        def flat(*arrays: mx.array) -> list[mx.array]:
            results, order = run(*arrays)
            sizes[:] = map(len, order)
            return [*results, *itertools.chain(*order)]

        try:
            graph = trace(flat, arguments)
        finally:
            self.put(self.weights.values())
            if self.prefix is not None:
                self.prefix.hidden = None
        names = iter(graph.outputs[len(graph.outputs) - sum(sizes) :])
        groups = [tuple(itertools.islice(names, size)) for size in sizes]
        held = graph.inputs[:num_held]
        return memory_of(self.change(graph), held, num_evaluated, groups, num_streams)

    def put(self, arrays: Iterable[mx.array]) -> None:
        """Replace all weights of the model."""
        put_arrays(self.model, dict(zip(self.weights, arrays, strict=True)))

    def tree(self, arrays: Sequence[mx.array]) -> Any:  # noqa: ANN401
        """Make a tree of gradients, one for each trained weight; None where there are none."""
        named = list(zip(self.trainable, arrays, strict=True)) if arrays else []
        return tree_unflatten(named) if named else None


def columns(arrays: Sequence[mx.array], size: int) -> list[Sequence[mx.array]]:
    """Cut a sequence into parts of so many arrays."""
    return [arrays[start : start + size] for start in range(0, len(arrays), size)]
