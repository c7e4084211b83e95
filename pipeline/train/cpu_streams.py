"""Evaluates the batches of one micro-batch side by side on the cores of a CPU.

MLX runs the operations of a CPU stream one after the other on one thread; only matrix products use
more threads, in the BLAS. So each batch of a micro-batch gets a stream and a thread here, and each
thread computes its matrix products alone.

No bit depends on this. A graph gives the same result whatever is evaluated next to it, and results
are added in the order of the graphs.

Threads. Graphs are built on the main thread, one after the other, and handed over complete. Two
graphs may share an array only after its evaluation has been waited for, because MLX marks an array
as evaluated without a lock. `mx.eval` evaluates and waits.

Pieces. All streams together may be only a few tasks ahead of the device. An evaluation that finds
more tasks waits until there are fewer, which takes long while other streams add theirs, and its
core is idle. So the forward pass is evaluated block by block.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.device import MOST_CPU_STREAMS, mx, nn, products_on_one_thread
from pipeline.model.network.forward import random_key
from pipeline.model.network.tree import every_array
from pipeline.objective.chunked_head import EvalOrder, evaluate

Item = TypeVar("Item")


@dataclass
class BatchGraph:
    """The graph of a batch, which is not evaluated yet.

    Attributes:
        loss_sum: sum of the cross-entropy that is reported, in nats.
        gradients: tree of those of all trained weights.
        order: what is evaluated before them.
    """

    loss_sum: mx.array
    gradients: Any
    order: EvalOrder


@dataclass
class CpuStreams:
    """Streams and threads, which are made when they are first needed."""

    streams: list[mx.Stream] = field(default_factory=list)
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(MOST_CPU_STREAMS, "stream")
    )

    def stream(self, index: int) -> mx.Stream:
        """Return the stream of a graph."""
        while len(self.streams) <= index:
            self.streams.append(mx.new_thread_unsafe_stream(mx.Device(mx.DeviceType.cpu)))
        return self.streams[index]

    @contextlib.contextmanager
    def building(self, index: int, model: nn.Module) -> Iterator[None]:
        """Build a graph of a model on its own stream, until the end of the `with`."""
        mx.eval(every_array(model))  # all graphs refer to these; recomputation leaves new ones
        with mx.stream(self.stream(index)):
            yield
            mx.eval(random_key())  # the next graph goes on from it

    def evaluate(self, graphs: Sequence[BatchGraph]) -> None:
        """Evaluate graphs side by side, each built on its own stream."""
        self.side_by_side(evaluate_graph, graphs)

    def side_by_side(self, work: Callable[[Item], None], items: Sequence[Item]) -> None:
        """Do some work on each item in a thread; all are done when this returns or raises."""
        with products_on_one_thread():
            running = [self.threads.submit(work, item) for item in items]
            wait(running)
        for each in running:
            each.result()


def evaluate_graph(graph: BatchGraph) -> None:
    """Evaluate a graph, one group of arrays after the other."""
    evaluate(graph.order)
    mx.eval(graph.loss_sum, graph.gradients)
