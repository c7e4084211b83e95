"""The evaluation of a traced graph, simulated: how much memory is in use at most.

What `mx.eval` does is repeated without arrays: the order of the operations, which memory they
share, and that memory is given back only when the device has done the work, which lags behind.
"""

import dataclasses
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass

from pipeline.train.plan.layout import Layout, fresh
from pipeline.train.plan.placement import Array, Buffer, place
from pipeline.train.plan.schedule import evaluation_order
from pipeline.train.plan.trace import ArrayShape, Graph, Node

MAX_ACTIVE_TASKS = 10
"""Tasks that the device may be behind (`transforms.cpp`)."""
KERNELS_PER_TASK = 10
"""Pieces of work in one task (`backend/cpu/encoder.h`)."""
STARTS = (0, KERNELS_PER_TASK // 2)
"""How far the first task may be already: it goes on where the evaluation before it ended."""


class Device:
    """Memory in use, and work handed over that may not have been done yet.

    It is taken to be as far behind as MLX lets it, as it is where the work is heavy.

    Attributes:
        active_bytes: in use now.
        peak_bytes: in use at most so far.
    """

    def __init__(self, start: int) -> None:
        self.active_bytes = self.peak_bytes = 0
        self.num_kernels = start
        self.tasks = deque[int]()
        self.pending = deque[tuple[int, list[Buffer]]]()

    def allocate(self, num_bytes: int) -> Buffer:
        """Take memory."""
        self.active_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.active_bytes)
        return Buffer(num_bytes)

    def use(self, buffer: Buffer) -> Buffer:
        """Note that one more needs a buffer."""
        buffer.users += 1
        return buffer

    def release(self, buffer: Buffer) -> None:
        """Note that one less needs a buffer."""
        buffer.users -= 1
        if not buffer.users:
            self.active_bytes -= buffer.num_bytes

    def run(self, kernels: int, buffers: Collection[Buffer]) -> None:
        """Hand over work; its buffers are needed until it is done, which one more piece tells."""
        for _ in range(kernels + 1):
            self.num_kernels += 1
            if self.num_kernels % KERNELS_PER_TASK == 0:
                self.tasks.append(self.num_kernels)
        self.pending.append((self.num_kernels, [self.use(buffer) for buffer in buffers]))
        if len(self.tasks) > MAX_ACTIVE_TASKS:
            self.wait_for_task()

    def wait_for_task(self) -> None:
        """Wait until the oldest task is done."""
        end = self.tasks.popleft()
        while self.pending and self.pending[0][0] <= end:
            for buffer in self.pending.popleft()[1]:
                self.release(buffer)


@dataclass(frozen=True)
class Saved:
    """Memory of an array that a forward pass keeps for the backward pass."""

    array: ArrayShape
    num_bytes: int


@dataclass(frozen=True)
class Simulation:
    """What an evaluation takes.

    Attributes:
        peak_bytes: memory in use at most, arguments included.
        saved: what the first result is computed from and other results need too, once per buffer;
            arguments are left out.
    """

    peak_bytes: int
    saved: tuple[Saved, ...]


def simulate(
    graph: Graph, held: Collection[str] = (), num_evaluated: int | None = None
) -> Simulation:
    """Evaluate the results of a graph without computing them.

    Args:
        graph: what `trace` recorded.
        held: arguments that somebody else refers to, so that they stay in memory.
        num_evaluated: how many results are evaluated, the first ones; the others are only referred
            to. None: all.
    """
    evaluated = graph.outputs[:num_evaluated]
    held = [*held, *graph.outputs[len(evaluated) :]]
    graph = dataclasses.replace(graph, outputs=evaluated)
    evaluations = [Evaluation(graph, held, start) for start in STARTS]
    peak_bytes = max(evaluation.run() for evaluation in evaluations)
    return Simulation(peak_bytes, evaluations[0].saved())


class Evaluation:
    """Evaluates a graph without computing."""

    def __init__(self, graph: Graph, held: Collection[str], start: int) -> None:
        self.graph, self.device = graph, Device(start)
        self.order = evaluation_order(graph)
        self.references = Counter(name for node in self.order for name in node.inputs)
        self.references.update(graph.outputs)
        self.references.update(held)
        self.arrays: dict[str, Array] = {}
        for name in (*graph.inputs, *graph.constants):
            if self.references[name]:
                self.put(name, fresh(graph.arrays[name]), None)

    def put(self, name: str, layout: Layout, sharing: Buffer | None) -> None:
        """Create an array, in new memory or in that of another one."""
        buffer = sharing or self.device.allocate(layout.data_size * layout.itemsize)
        self.arrays[name] = Array(layout, self.device.use(buffer), self.references[name])

    def drop(self, name: str) -> None:
        """Forget an array that nobody refers to any more."""
        array = self.arrays[name]
        if not array.references:
            self.device.release(array.buffer)

    def run(self) -> int:
        """Evaluate everything; give the peak in bytes."""
        for node in self.order:
            self.evaluate(node)
        return self.device.peak_bytes

    def evaluate(self, node: Node) -> None:
        """Carry out one operation."""
        inputs = [self.arrays[name] for name in node.inputs]
        outs = [self.graph.arrays[name] for name in node.outputs]
        placement = place(node, inputs, outs)
        shared = [array.buffer for array in placement.sharing] or [None] * len(outs)
        for name, layout, buffer in zip(node.outputs, placement.layouts, shared, strict=True):
            self.put(name, layout, buffer)
        result, *siblings = (self.arrays[name].buffer for name in node.outputs)
        needed = {array.buffer for array in inputs} | set(siblings)
        needed |= {self.device.allocate(size) for size in placement.temporary_bytes}
        self.device.run(placement.kernels, needed - {result})
        for array in inputs:
            array.references -= 1
        for name in {*node.inputs, *node.outputs}:
            self.drop(name)

    def saved(self) -> tuple[Saved, ...]:
        """Find what the forward pass to the first result left for the others."""
        makers = {name: node for node in self.order for name in node.outputs}
        forward, todo = set[str](), [self.graph.outputs[0]]
        while todo:
            name = todo.pop()
            if name in makers and name not in forward:
                forward.update(makers[name].outputs)
                todo += makers[name].inputs
        found: dict[Buffer, str] = {}
        for node in self.order:
            if not forward.issuperset(node.outputs):
                found |= {self.arrays[name].buffer: name for name in node.inputs if name in forward}
        given = {self.arrays[name].buffer for name in self.arrays if name not in makers}
        return tuple(
            Saved(self.graph.arrays[name], buffer.num_bytes)
            for buffer, name in found.items()
            if buffer not in given
        )
