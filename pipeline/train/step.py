"""One optimizer update: gradients of every micro-batch, added, clipped, checked, applied."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.data.batches import Batch, MicroBatch
from pipeline.device import mx, nn, optimizers, tree_map
from pipeline.model.body_and_head import BodyAndHead
from pipeline.model.network.intercept import outputs_noted
from pipeline.model.network.tree import blocks, named_arrays
from pipeline.objective.chunked_head import EvalOrder, evaluate, loss_sums
from pipeline.sums import sum_all
from pipeline.train.cpu_streams import BatchGraph, CpuStreams
from pipeline.train.prefix.replay import NoPrefix, Replay
from pipeline.train.profile import Profile

LossAndGrad = Callable[[Batch, int], tuple[tuple[mx.array, mx.array, EvalOrder], Any]]
"""Returns what `TrainStep.losses` does, and the tree of the gradients."""


@dataclass(frozen=True)
class StepResult:
    """What one update did.

    Attributes:
        train_loss: plain cross-entropy in nats per target, weights left out.
        grad_norm: global norm of the gradient before clipping.
        num_targets: tokens whose loss counted.
        num_tokens: tokens that the model read, prompts counted and padding left out.
        finite: whether loss and gradient were; if not, nothing was updated.
        distrust_term: mean over the targets of what was added to the loss as a constant, in nats.
        mean_weight: mean weight of the targets.
    """

    train_loss: float
    grad_norm: float
    num_targets: int
    num_tokens: int
    finite: bool
    distrust_term: float
    mean_weight: float


@dataclass(eq=False)
class TrainStep:
    """Updates a model by one optimizer step at a time.

    Attributes:
        model: trainable as it should be trained.
        optimizer: initialised for it.
        max_grad_norm: largest global norm of the gradient; None: it is not clipped.
        profile: measures the parts of a step.
        label_smoothing: share of each target that is spread over the vocabulary.
        distrust_sums: per document of the store, a constant that is added to the minimised sum, in
            nats; it is reported and has no effect on the gradient.
        prefix: puts activations in place of frozen blocks.
        is_proven: compare the divided model with the whole one; needs loaded weights.
        body_and_head: the model in two parts: embedding and blocks, and the head.
    """

    model: nn.Module
    optimizer: optimizers.Optimizer
    max_grad_norm: float | None
    profile: Profile = field(default_factory=lambda: Profile(None))
    label_smoothing: float = 0.0
    distrust_sums: np.ndarray | None = None
    prefix: Replay = field(default_factory=NoPrefix)
    is_proven: bool = True
    body_and_head: BodyAndHead = field(init=False)

    def __post_init__(self) -> None:
        """Prepare what all steps share."""
        self.body_and_head = (
            BodyAndHead.proven(self.model) if self.is_proven else BodyAndHead(self.model)
        )
        self.loss_and_grad: LossAndGrad = nn.value_and_grad(self.model, self.losses)
        self.streams = CpuStreams()

    def __call__(self, micro_batches: Sequence[MicroBatch]) -> StepResult:
        """Update the model once.

        The mean is taken once, over all targets, so that how documents were split into
        micro-batches has no effect. The loss divides by the count of targets, not by the sum of
        their weights.

        Args:
            micro_batches: each a tuple of batches, which are worked on side by side, one per CPU
                stream.
        """
        batches = [batch for micro_batch in micro_batches for batch in micro_batch]
        num_targets = sum(batch.num_targets for batch in batches)
        with self.profile.part("gradients"):
            loss_sum, gradients = self.accumulate(micro_batches)
            loss, norm, finite, gradients = means(loss_sum, gradients, num_targets)
            mx.eval(loss, norm, finite)
        if finite:
            with self.profile.part("update"):
                self.optimizer.update(self.model, self.clipped(gradients, norm))
                mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        return StepResult(
            train_loss=float(loss),
            grad_norm=float(norm),
            num_targets=num_targets,
            num_tokens=sum(batch.num_tokens for batch in batches),
            finite=bool(finite),
            distrust_term=sum(map(self.distrust_sum, batches)) / num_targets,
            mean_weight=sum(batch.weight_sum for batch in batches) / num_targets,
        )

    def accumulate(self, micro_batches: Sequence[MicroBatch]) -> tuple[mx.array, Any]:
        """Add losses and gradients; each micro-batch is evaluated before the next is begun."""
        loss_sum, gradients = mx.array(0.0), None
        for micro_batch in micro_batches:
            graphs = self.graphs(micro_batch)
            loss_sum, gradients, order = add(loss_sum, gradients, graphs)
            evaluate(order)
            mx.eval(loss_sum, gradients)
        return loss_sum, gradients

    def graphs(self, micro_batch: MicroBatch) -> list[BatchGraph]:
        """Build the graph of each batch; where there are several, evaluate them side by side."""
        if len(micro_batch) == 1:
            return [self.graph(micro_batch[0])]
        graphs = []
        for index, batch in enumerate(micro_batch):
            with self.streams.building(index, self.model):
                graphs.append(self.graph(batch, len(micro_batch)))
        self.streams.evaluate(graphs)
        return graphs

    def graph(self, batch: Batch, num_streams: int = 1) -> BatchGraph:
        """Build the graph of a batch; nothing is evaluated."""
        with self.prefix.of(batch):
            (_minimised, loss_sum, order), gradients = self.loss_and_grad(batch, num_streams)
        return BatchGraph(loss_sum, gradients, order)

    def losses(self, batch: Batch, num_streams: int = 1) -> tuple[mx.array, mx.array, EvalOrder]:
        """Return the minimised sum and the plain sum, in nats, and what to evaluate first.

        The gradient is that of the minimised sum. Where streams run side by side, the outputs of
        blocks come first, so that each block is evaluated by itself.
        """
        with outputs_noted(blocks(self.model) if num_streams > 1 else []) as outputs:
            minimised, plain, order = loss_sums(
                self.body_and_head, batch, self.label_smoothing, num_streams
            )
        order = [*([output] for output in outputs), *order]
        return minimised + self.distrust_sum(batch), plain, order

    def distrust_sum(self, batch: Batch) -> float:
        """Add up the constants of the documents of a batch, in nats."""
        if self.distrust_sums is None:
            return 0.0
        return float(self.distrust_sums[batch.documents].sum())

    def clipped(self, gradients: Any, norm: mx.array) -> Any:  # noqa: ANN401
        """Shrink gradients whose global norm is too large (arXiv 1211.5063, alg. 1)."""
        if self.max_grad_norm is None:
            return gradients
        factor = mx.minimum(self.max_grad_norm / (norm + 1e-6), 1.0)
        return tree_map(lambda gradient: gradient * factor.astype(gradient.dtype), gradients)


def add(
    loss_sum: mx.array,
    gradients: Any,  # noqa: ANN401
    graphs: list[BatchGraph],
) -> tuple[mx.array, Any, EvalOrder]:
    """Add the results of graphs to the sums so far, in their order.

    Their list is emptied, so that each graph is freed early.

    Returns:
        The sums, and what is to be evaluated before them; nothing where streams have done that.
    """
    order: EvalOrder = []
    while graphs:
        graph = graphs.pop(0)
        loss_sum, order = loss_sum + graph.loss_sum, [*order, *graph.order]
        if gradients is None:
            gradients = graph.gradients
        else:
            gradients = tree_map(add_exactly, gradients, graph.gradients)
    return loss_sum, gradients, order


def add_exactly(total: mx.array, part: mx.array) -> mx.array:
    """Add gradients in float32: sums in 16 bits would lose what is small beside them."""
    return total.astype(mx.float32) + part.astype(mx.float32)


def means(
    loss_sum: mx.array,
    gradients: Any,  # noqa: ANN401
    num_targets: int,
) -> tuple[mx.array, mx.array, mx.array, Any]:
    """Divide sums by the number of targets.

    Returns:
        The loss, the norm of its gradient, whether both are finite, and the gradient.
    """
    gradients = tree_map(lambda gradient: gradient / num_targets, gradients)
    loss, norm = loss_sum / num_targets, global_norm(gradients)
    return loss, norm, mx.isfinite(loss) & mx.isfinite(norm), gradients


def global_norm(gradients: Any) -> mx.array:  # noqa: ANN401
    """Take the Euclidean norm over all tensors, in float32."""
    squares = [
        sum_all(mx.square(gradient.astype(mx.float32)))
        for gradient in named_arrays(gradients).values()
    ]
    return mx.sqrt(sum_all(mx.stack(squares)))
