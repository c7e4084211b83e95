"""The frozen prefix: blocks below the first trained one, which give the same in every step.

mlx-lm's models call their blocks in order, each on what the one before gave. So the blocks below
the first trained one can be left out where the last of them gives what it would have given. The
embedding still stands in the graph, but MLX never computes what no result needs.

`find_prefix` tries whether a model is built like this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float, Int

from pipeline.device import mx, nn
from pipeline.errors import ModelError
from pipeline.model.network.forward import evaluation_mode, forward
from pipeline.model.network.intercept import Call, intercept
from pipeline.model.network.tree import arrays_replaced, blocks, trainable_arrays
from pipeline.sums import standard_deviation

TOLERANCE = 1e-5
"""Share of the logits' deviation by which a replay may differ; it is of the same rounding."""
PROBE = [[0, 1, 2, 3, 4, 5], [3, 1, 0, 2, 5, 4]]
"""Token ids that every vocabulary has."""


class Reached(Exception):
    """The last frozen block has given this."""

    def __init__(self, output: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.output = output


class FrozenPrefix:
    """The first blocks of a model, which can be recorded, and left out.

    Attributes:
        depth: how many blocks these are.
    """

    def __init__(self, model: nn.Module, depth: int) -> None:
        self.model, self.depth, self.last = model, depth, blocks(model)[depth - 1]
        self.hidden: mx.array | None = None
        self.is_recording = False
        self._undo = [intercept(block, self.answer) for block in blocks(model)[:depth]]

    def remove(self) -> None:
        """Run the blocks as before."""
        for undo in self._undo:
            undo()

    def answer(self, call: Call) -> Any:  # noqa: ANN401
        """Run a frozen block, unless what comes out of the last one is there already."""
        if self.hidden is not None:
            return self.hidden  # of each block, so that none asks for its input
        output = call.run()
        if self.is_recording and call.module is self.last:
            raise Reached(output)
        return output

    def record(self, inputs: Int[mx.array, "rows seq_len"]) -> Float[mx.array, "rows seq_len size"]:
        """Compute what enters the first trained block; nothing above is run.

        Raises:
            ModelError: when a block gives something other than a vector per token.
        """
        self.is_recording = True
        try:
            self.model(inputs)
        except Reached as reached:
            output = reached.output
            if isinstance(output, mx.array) and output.shape[:-1] == inputs.shape:
                return output
        finally:
            self.is_recording = False
        raise ModelError("a block of this model does not give one vector per token")

    @contextmanager
    def replay(self, hidden: Float[mx.array, "rows seq_len size"]) -> Iterator[None]:
        """Start the model's calls from what was recorded, until the end of the `with`."""
        self.hidden = hidden
        try:
            yield
        finally:
            self.hidden = None


def frozen_depth(model: nn.Module) -> int:
    """Count the blocks before the first one that is trained."""
    trained = [index for index, block in enumerate(blocks(model)) if trainable_arrays(block)]
    return min(trained, default=len(blocks(model)))


def find_prefix(model: nn.Module) -> FrozenPrefix:
    """Find the frozen blocks, and try whether the model gives the same without running them.

    Raises:
        ModelError: when nothing is frozen, or it does not, with the reason.
    """
    depth = frozen_depth(model)
    if not depth:
        raise ModelError("the first block is trained")
    prefix = FrozenPrefix(model, depth)
    try:
        with evaluation_mode(model):  # dropout would tell two runs apart
            require_independence(prefix)
            require_equal_replay(prefix)
    except Exception as error:  # each architecture fails in its own way
        prefix.remove()
        reason = str(error) if isinstance(error, ModelError) else repr(error)
        raise ModelError(reason) from error
    return prefix


def require_independence(prefix: FrozenPrefix) -> None:
    """Set all that is trained to NaN for once, and see whether that gets into the prefix.

    Raises:
        ModelError: when it does, as from an adapter of the embedding.
    """
    trained = trainable_arrays(prefix.model)
    spoilt = [mx.full(value.shape, mx.nan, value.dtype) for value in trained.values()]
    with arrays_replaced(prefix.model, trained, spoilt):
        reached = bool(mx.isnan(prefix.record(mx.array(PROBE))).any())
    if reached:
        raise ModelError("what enters the blocks is trained too")


def require_equal_replay(prefix: FrozenPrefix) -> None:
    """Compare the logits of a replay with those of the whole model.

    Raises:
        ModelError: when they differ.
    """
    inputs = mx.array(PROBE)
    whole = forward(prefix.model, inputs).astype(mx.float32)
    with prefix.replay(prefix.record(inputs)):
        replayed = forward(prefix.model, inputs).astype(mx.float32)
    difference = float(mx.abs(replayed - whole).max() / standard_deviation(whole))
    if not difference <= TOLERANCE:
        raise ModelError(
            f"without its frozen blocks this model gives other logits, by {difference:.2g} of "
            "their deviation"
        )
