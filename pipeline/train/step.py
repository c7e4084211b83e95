"""One optimizer update: gradients of every micro-batch, added, clipped, checked, applied."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.batches import Batch
from pipeline.device import mx, nn, optimizers, tree_map
from pipeline.model.forward import random_key
from pipeline.model.split import Split, noted, proven_split
from pipeline.model.tree import blocks, every_array, named_arrays
from pipeline.objective.chunked_head import Stages, evaluate, loss_sums
from pipeline.train.cpu_streams import Lanes, Part
from pipeline.train.profile import Profile


@dataclass(frozen=True)
class StepResult:
    """What one update did.

    Attributes:
        train_loss: plain cross-entropy in nats per target, weights left out.
        grad_norm: global norm of the gradient before clipping.
        num_tokens: targets that counted.
        finite: whether loss and gradient were; if not, nothing was updated.
        distrust_term: mean over the targets of what was added to the loss as a constant, in nats.
        mean_weight: mean weight of the targets.
    """

    train_loss: float
    grad_norm: float
    num_tokens: int
    finite: bool
    distrust_term: float
    mean_weight: float


class TrainStep:
    """Updates a model by one optimizer step at a time.

    Args:
        model: trainable as it should be trained.
        optimizer: initialised for it.
        max_grad_norm: longest gradient; None: any.
        profile: measures the parts of a step.
        label_smoothing: share of each target that is spread over the vocabulary.
        distrust_sums: per document of the store, what is added to the minimised sum, in nats.
        split: the model in two parts; None: it is split here.
        replayed: gives micro-batches on, each with what it needs in place while it is out.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optimizers.Optimizer,
        max_grad_norm: float | None,
        profile: Profile | None = None,
        label_smoothing: float = 0.0,
        distrust_sums: np.ndarray | None = None,
        split: Split | None = None,
        replayed: Callable[[Iterable[Batch]], Iterator[Batch]] = iter,
    ) -> None:
        self.replayed = replayed
        self.split = split or proven_split(model)
        self.label_smoothing, self.distrust_sums = label_smoothing, distrust_sums
        self.profile = profile or Profile(None)
        self.model, self.optimizer, self.max_grad_norm = model, optimizer, max_grad_norm
        self.lanes = Lanes()
        self.loss_and_grad = nn.value_and_grad(model, self.losses)

    def losses(self, batch: Batch) -> tuple[mx.array, mx.array, Stages]:
        """Give the sum that is minimised and the plain sum, in nats, and what to evaluate first."""
        with noted(blocks(self.model) if batch.num_lanes > 1 else []) as outputs:
            minimised, plain, stages = loss_sums(self.split, batch, self.label_smoothing)
        stages = [*([output] for output in outputs), *stages]
        return minimised + self.distrust_sum(batch), plain, stages

    def distrust_sum(self, batch: Batch) -> float:
        """Add up the constants of the documents of a batch, in nats."""
        if self.distrust_sums is None:
            return 0.0
        return float(self.distrust_sums[batch.documents].sum())

    def accumulate(self, batches: Sequence[Batch]) -> tuple[mx.array, Any]:
        """Add losses and gradients of the micro-batches.

        Each is evaluated before the next one starts, so that one graph is in memory at a time, or
        one graph of each of its parts.
        """
        total, gradients = mx.array(0.0), None
        parts: list[Part] = []
        for batch in self.replayed(batches):
            parts.append(self.part(batch, len(parts)))
            if len(parts) < batch.num_lanes:
                continue
            if batch.num_lanes > 1:
                self.lanes.evaluate(parts)
            total, gradients, stages = add(total, gradients, parts)
            evaluate(stages)
            mx.eval(total, gradients)
        assert not parts, "a micro-batch lacks one of its parts"
        return total, gradients

    def part(self, batch: Batch, lane: int) -> Part:
        """Build the graph of a batch, on a stream of its own where others are beside it."""
        if batch.num_lanes == 1:
            return self.graph(batch)
        # All parts refer to these, see `lanes`; recomputation leaves new ones after each graph.
        mx.eval(every_array(self.model))
        with mx.stream(self.lanes.stream(lane)):
            part = self.graph(batch)
            mx.eval(random_key())  # the next part goes on from it
        return part

    def graph(self, batch: Batch) -> Part:
        """Build the graph of a batch; nothing is evaluated."""
        losses, gradients = self.loss_and_grad(batch)
        _, plain, stages = losses  # what is minimised refers to all that it was made of
        return Part(plain, gradients, stages)

    def __call__(self, batches: Sequence[Batch]) -> StepResult:
        """Make one update from the micro-batches of one step.

        The mean is taken once, over all targets, so that how documents were split into
        micro-batches has no effect. The loss divides by the count of targets, not by the sum of
        their weights.
        """
        num_tokens = sum(batch.num_targets for batch in batches)
        with self.profile.part("gradients"):
            total, gradients = self.accumulate(batches)
            gradients = tree_map(lambda gradient: gradient / num_tokens, gradients)
            norm = global_norm(gradients)
            loss = total / num_tokens
            finite = mx.isfinite(loss) & mx.isfinite(norm)
            mx.eval(loss, norm, finite)
        result = StepResult(
            train_loss=float(loss),
            grad_norm=float(norm),
            num_tokens=num_tokens,
            finite=bool(finite),
            distrust_term=sum(map(self.distrust_sum, batches)) / num_tokens,
            mean_weight=sum(batch.weight_sum for batch in batches) / num_tokens,
        )
        if result.finite:
            with self.profile.part("update"):
                self.optimizer.update(self.model, self.clipped(gradients, norm))
                mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        return result

    def clipped(self, gradients: Any, norm: mx.array) -> Any:  # noqa: ANN401
        """Shrink gradients whose global norm is too long (arXiv 1211.5063, alg. 1)."""
        if self.max_grad_norm is None:
            return gradients
        factor = mx.minimum(self.max_grad_norm / (norm + 1e-6), 1.0)
        return tree_map(lambda gradient: gradient * factor.astype(gradient.dtype), gradients)


def add(
    total: mx.array,
    gradients: Any,  # noqa: ANN401
    parts: list[Part],
) -> tuple[mx.array, Any, Stages]:
    """Add what parts give to the sums so far, in their order; nobody refers to the parts then.

    Returns:
        The sums, and what is to be evaluated before them.
    """
    stages: Stages = []
    while parts:
        part = parts.pop(0)
        total, stages = total + part.plain, [*stages, *part.stages]
        if gradients is None:
            gradients = part.gradients
        else:
            gradients = tree_map(mx.add, gradients, part.gradients)
    return total, gradients, stages


def global_norm(gradients: Any) -> mx.array:  # noqa: ANN401
    """Give the Euclidean norm over all tensors, in float32."""
    squares = [
        mx.square(gradient.astype(mx.float32)).sum()
        for gradient in named_arrays(gradients).values()
    ]
    return mx.sqrt(mx.stack(squares).sum())
