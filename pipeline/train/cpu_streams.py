"""Parts of a micro-batch, evaluated side by side on the cores of a CPU.

MLX carries out the operations of a CPU stream one after the other on one thread; of all the work
only matrix products are shared out, by the BLAS. So each part of a micro-batch has a stream and a
thread here, and whichever asks for a matrix product makes it alone.

What decides bits: nothing here. A graph gives the same whatever is evaluated beside it, and what
the parts give is added in their order.

Threads. Graphs are built on the main thread, one after the other, and are handed over whole. No two
of them may refer to one array that is still to be evaluated, or whose evaluation nobody has waited
for: MLX notes in the array that it is done, without a lock. `mx.eval` of it does both.

Pieces. The evaluations of all streams together may be a few tasks ahead of the device. One that
finds more waits until there are fewer than it found, and while others go on that may be long: its
core is idle. So the forward pass is evaluated block by block.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.device import MOST_LANES, mx, products_on_one_thread
from pipeline.objective.chunked_head import Stages, evaluate

Item = TypeVar("Item")


@dataclass
class Part:
    """The graph of a batch.

    Attributes:
        plain: sum of the cross-entropy that is reported, in nats.
        gradients: tree of those of all trained weights.
        stages: what is evaluated before.
    """

    plain: mx.array
    gradients: Any
    stages: Stages


@dataclass
class Lanes:
    """Streams and threads, which are made when they are first needed."""

    streams: list[mx.Stream] = field(default_factory=list)
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(MOST_LANES, "lane")
    )

    def stream(self, lane: int) -> mx.Stream:
        """Give the stream on which the graph of a part is built."""
        while len(self.streams) <= lane:
            self.streams.append(mx.new_thread_unsafe_stream(mx.Device(mx.DeviceType.cpu)))
        return self.streams[lane]

    def evaluate(self, parts: Sequence[Part]) -> None:
        """Evaluate parts side by side, each built on a stream of its own."""
        self.side_by_side(evaluate_part, parts)

    def side_by_side(self, work: Callable[[Item], None], items: Sequence[Item]) -> None:
        """Do some work on each item in a thread; all are done when this returns or raises."""
        with products_on_one_thread():
            running = [self.threads.submit(work, item) for item in items]
            wait(running)
        for each in running:
            each.result()


def evaluate_part(part: Part) -> None:
    """Evaluate a part, stage by stage."""
    evaluate(part.stages)
    mx.eval(part.plain, part.gradients)
