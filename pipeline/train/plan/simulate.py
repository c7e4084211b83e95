"""The evaluation of a traced graph, simulated: how much memory is in use at most.

What `mx.eval` does is repeated without arrays: the order of the operations, which memory they
share, and that memory is given back only when the device has done the work, which lags behind.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pipeline.train.plan.layout import Layout, fresh
from pipeline.train.plan.placement import Array, Buffer, place
from pipeline.train.plan.schedule import stage_orders
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

    Args:
        start: how far its first task is.
        max_tasks: how many it may be behind.

    Attributes:
        active_bytes: in use now.
        peak_bytes: in use at most so far.
    """

    def __init__(self, start: int, max_tasks: int) -> None:
        self.max_tasks = max_tasks
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
        if len(self.tasks) > self.max_tasks:
            self.wait_for_task()

    def wait(self) -> None:
        """Wait until all is done."""
        self.tasks.clear()
        while self.pending:
            for buffer in self.pending.popleft()[1]:
                self.release(buffer)

    def wait_for_task(self) -> None:
        """Wait until the oldest task is done."""
        end = self.tasks.popleft()
        while self.pending and self.pending[0][0] <= end:
            for buffer in self.pending.popleft()[1]:
                self.release(buffer)


@dataclass(frozen=True)
class Saved:
    """Memory of an array that earlier stages leave for the last one."""

    array: ArrayShape
    num_bytes: int


@dataclass(frozen=True)
class Simulation:
    """What an evaluation takes.

    Attributes:
        peak_bytes: memory in use at most, arguments included.
        saved: what is in memory when the stages are over, once per buffer; arguments are left out.
    """

    peak_bytes: int
    saved: tuple[Saved, ...]


def simulate(
    graph: Graph,
    held: Collection[str] = (),
    num_evaluated: int | None = None,
    stages: Sequence[Sequence[str]] = (),
    num_lanes: int = 1,
) -> Simulation:
    """Evaluate the results of a graph without computing them.

    Args:
        graph: what `trace` recorded.
        held: arguments that somebody else refers to, so that they stay in memory.
        num_evaluated: how many results are evaluated, the first ones; the others are only referred
            to. None: all.
        stages: results that are evaluated before, one stage after the other, and then forgotten.
        num_lanes: so many such graphs are evaluated side by side, and share what may be behind.
    """
    early = {name for stage in stages for name in stage}
    results = [name for name in graph.outputs if name not in early]
    evaluated = tuple(results[:num_evaluated])
    held = [*held, *results[len(evaluated) :]]
    stages = [*stages, evaluated]
    orders = stage_orders(graph, stages)
    max_tasks = MAX_ACTIVE_TASKS // num_lanes
    evaluations = [
        Evaluation(graph, held, stages, orders, Device(start, max_tasks)) for start in STARTS
    ]
    peak_bytes = max(evaluation.run() for evaluation in evaluations)
    return Simulation(peak_bytes, evaluations[0].saved)


class Evaluation:
    """Evaluates a graph without computing, each stage in its order."""

    def __init__(
        self,
        graph: Graph,
        held: Collection[str],
        stages: Sequence[Sequence[str]],
        orders: Sequence[Sequence[Node]],
        device: Device,
    ) -> None:
        self.graph, self.stages, self.orders = graph, stages, orders
        self.device = device
        self.references = Counter(
            name for order in self.orders for node in order for name in node.inputs
        )
        self.references.update(name for stage in stages for name in stage)
        self.references.update(held)
        self.saved: tuple[Saved, ...] = ()
        self.arrays: dict[str, Array] = {}
        self.given = {*graph.inputs, *graph.constants}
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
        *early, last = zip(self.stages, self.orders, strict=True)
        for names, order in early:
            self.evaluate_all(order)
            for name in names:
                self.arrays[name].references -= 1
                self.drop(name)
        self.saved = self.kept()
        self.evaluate_all(last[1])
        return self.device.peak_bytes

    def evaluate_all(self, order: Iterable[Node]) -> None:
        """Carry out the operations of a stage, and wait for the last one."""
        for node in order:
            self.evaluate(node)
        self.device.wait()

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

    def kept(self) -> tuple[Saved, ...]:
        """List what is in memory besides arguments and constants, once per buffer."""
        given = {self.arrays[name].buffer for name in self.arrays if name in self.given}
        found = {
            array.buffer: name
            for name, array in self.arrays.items()
            if array.references and array.buffer not in given
        }
        return tuple(
            Saved(self.graph.arrays[name], buffer.num_bytes) for buffer, name in found.items()
        )
