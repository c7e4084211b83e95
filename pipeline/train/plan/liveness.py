"""How much memory the evaluation of a traced graph takes: from when until when each array is held.

An operation takes new memory for its result, writes it over an input that nothing else needs, or
is a view of its input. The device works behind the program, so memory is given back some tasks
after its last use. `docs/plan.md` compares this with measurements.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pipeline.train.plan.evaluation_order import group_orders
from pipeline.train.plan.trace import ArrayShape, Graph, Node

LAG = 110
"""Tasks that the device may be behind: ten batches of ten, and one that is being filled (MLX's
`transforms.cpp` and `backend/cpu/encoder.h`). A view is one task; an operation is two, itself and
the release of the arrays that it has read."""
VIEWS = {
    "AsStrided", "Broadcast", "BroadcastAxes", "Copy", "Depends", "ExpandDims",
    "Flatten", "Reshape", "Slice", "Split", "Squeeze", "StopGradient", "Transpose", "Unflatten",
    "View",
}  # fmt: skip
"""Results that are taken to share memory with an input."""
UNARY = {
    "Abs", "ArcCos", "ArcCosh", "ArcSin", "ArcSinh", "ArcTan", "ArcTanh", "AsType",
    "BitwiseInvert", "Ceil", "Cos", "Cosh", "Erf", "ErfInv", "Exp", "Expm1", "Floor", "Log",
    "Log1p", "LogicalNot", "Negative", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax",
    "Sqrt", "Square", "Tan", "Tanh",
}  # fmt: skip
BINARY = {
    "Add", "ArcTan2", "BitwiseBinary", "Divide", "Equal", "Greater", "GreaterEqual", "Less",
    "LessEqual", "LogAddExp", "LogicalAnd", "LogicalOr", "Maximum", "Minimum", "Multiply",
    "NotEqual", "Power", "Remainder", "Subtract",
}  # fmt: skip
OVERWRITING = UNARY | BINARY | {"Scatter", "ScatterAxis", "Select", "SliceUpdate"}
"""Operations that write their result over an input of the same size."""


@dataclass(frozen=True)
class Saved:
    """Memory of an array that earlier groups leave for the last one."""

    array: ArrayShape
    num_bytes: int


@dataclass(frozen=True)
class Memory:
    """What an evaluation takes.

    Attributes:
        peak_bytes: memory in use at most, arguments included.
        saved: what is in memory before the last group, once per buffer, without the arguments.
    """

    peak_bytes: int
    saved: tuple[Saved, ...]


def memory_of(
    graph: Graph,
    held: Collection[str] = (),
    num_evaluated: int | None = None,
    groups: Sequence[Sequence[str]] = (),
    num_streams: int = 1,
) -> Memory:
    """Compute the memory that evaluating the results of a graph takes.

    Args:
        graph: what `trace` recorded.
        held: arguments that stay in memory, because something else refers to them.
        num_evaluated: how many results are evaluated, from the first on; the caller only keeps
            references to the others. None: all.
        groups: results that are evaluated earlier, one group after the other, and then forgotten.
        num_streams: so many such graphs are evaluated at the same time, and share the tasks of
            `LAG`.
    """
    early = {name for group in groups for name in group}
    results = [name for name in graph.outputs if name not in early]
    last = results[:num_evaluated]
    held = [*held, *results[len(last) :]]
    evaluation = Evaluation(graph, [*groups, last], held, LAG // num_streams)
    return Memory(evaluation.run(), evaluation.saved)


class Evaluation:
    """Counts the memory in use while a graph is evaluated, group by group.

    A view counts under the name of the array whose memory it shares, its source.

    Attributes:
        peak_bytes: in use at most so far.
        saved: what was in memory before the last group.
    """

    def __init__(
        self, graph: Graph, groups: Sequence[Sequence[str]], held: Iterable[str], lag: int
    ) -> None:
        self.arrays, self.lag, self.groups = graph.arrays, lag, groups
        self.orders = group_orders(graph, groups)
        nodes = [node for order in self.orders for node in order]
        self.sources: dict[str, str] = {}
        for node in nodes:
            self.sources |= {name: self.source(seen) for name, seen in seen_by(node).items()}
        needed = [name for node in nodes if node.primitive not in VIEWS for name in node.inputs]
        needed += [*held, *(name for group in groups for name in group)]
        self.references = Counter(map(self.source, needed))
        self.saved: tuple[Saved, ...] = ()
        self.active_bytes = self.peak_bytes = 0
        self.num_bytes: dict[str, int] = {}
        self.tasks = deque[Collection[str]]()
        self.given = {*graph.inputs, *graph.constants}
        for name in self.given & self.references.keys():
            self.take(name, self.arrays[name].num_bytes)

    def source(self, name: str) -> str:
        """Return the array whose memory an array shares."""
        return self.sources.get(name, name)

    def run(self) -> int:
        """Evaluate all groups; return the peak in bytes."""
        *early, last = self.orders
        for names, order in zip(self.groups, early, strict=False):
            self.evaluate(order)
            self.drop(map(self.source, names))
        self.saved = tuple(
            Saved(self.arrays[name], size)
            for name, size in self.num_bytes.items()
            if self.references[name] and name not in self.given
        )
        self.evaluate(last)
        return self.peak_bytes

    def evaluate(self, order: Iterable[Node]) -> None:
        """Carry out operations, and wait until the device has done them."""
        for node in order:
            if node.primitive in VIEWS:
                self.hand_over(())
            else:
                self.carry_out(node)
        while self.tasks:
            self.drop(self.tasks.popleft())

    def carry_out(self, node: Node) -> None:
        """Take memory for the results of an operation, unless an input may be written over."""
        read = list(map(self.source, node.inputs))
        if node.primitive in OVERWRITING:
            (result,) = node.outputs
            size = self.result_bytes(node, read)
            donors = [name for name in read if self.can_be_overwritten(name, size)]
            if donors:
                self.active_bytes -= size
                read.remove(donors[0])
                self.references[donors[0]] = 0
            self.take(result, size)
        else:
            for name in node.outputs:
                self.take(name, self.arrays[name].num_bytes)
        unused = [name for name in node.outputs if not self.references[name]]
        self.references.update(unused)
        self.hand_over(())
        self.hand_over([*read, *unused])

    def result_bytes(self, node: Node, read: Sequence[str]) -> int:
        """Count the bytes of a result; of a broadcast input it is broadcast too.

        This holds for operations on one array, and on two of which one is a single number.
        """
        result = self.arrays[node.outputs[0]]
        pairs = zip(read, node.inputs, strict=True)
        sizes = [self.num_bytes[name] // (self.arrays[seen].itemsize or 1) for name, seen in pairs]
        is_broadcast = node.primitive in UNARY or (node.primitive in BINARY and min(sizes) == 1)
        return min(result.size, max(sizes)) * result.itemsize if is_broadcast else result.num_bytes

    def can_be_overwritten(self, name: str, num_bytes: int) -> bool:
        """Whether an array has this size, and no other operation or task needs it."""
        return self.references[name] == 1 and self.num_bytes[name] == num_bytes

    def hand_over(self, names: Collection[str]) -> None:
        """Hand a task to the device, which needs some arrays until it is done."""
        self.tasks.append(names)
        if len(self.tasks) > self.lag:
            self.drop(self.tasks.popleft())

    def take(self, name: str, num_bytes: int) -> None:
        """Count memory that is in use from now on."""
        self.num_bytes[name] = num_bytes
        self.active_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.active_bytes)

    def drop(self, names: Iterable[str]) -> None:
        """Count one use less of each array; free those that are no longer used."""
        for name in names:
            self.references[name] -= 1
            if not self.references[name]:
                self.active_bytes -= self.num_bytes[name]


def seen_by(node: Node) -> dict[str, str]:
    """Return the input whose memory each result of a view shares; nothing for other operations."""
    if node.primitive not in VIEWS:
        return {}
    if node.primitive == "Split":
        return dict.fromkeys(node.outputs, node.inputs[0])
    return dict(zip(node.outputs, node.inputs, strict=False))
