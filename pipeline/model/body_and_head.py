"""A model in two parts: what gives hidden states, and the head that makes logits of them.

Both parts are the model's own code, whatever its architecture. We run the body and capture its
output, or replace it by hidden states computed earlier. So all that stands between body and
logits (a tied or quantised matrix, a bias, an adapter, scaling, soft-capping) is in the head.
"""

from collections.abc import Callable, Sequence

from jaxtyping import Float, Int

from pipeline.device import mx, nn
from pipeline.model.network.forward import evaluation_mode, forward
from pipeline.model.network.intercept import intercepted, outputs_noted, reads_noted
from pipeline.model.network.tree import arrays_replaced, blocks, own_arrays, trainable_arrays
from pipeline.sums import standard_deviation

PROBE = ((0, 1, 2, 3),)
TOLERANCE, TOLERANCE_16 = 1e-4, 2e-2
"""Shares of the logits' deviation that float32 and 16-bit numbers may differ by."""


class BodyAndHead:
    """A model, its body and its head.

    Args:
        model: one of mlx-lm's.

    Attributes:
        vocab_size: logits of a token.
        problem: why the model cannot be divided; empty where it can. If so, its logits take the
            place of hidden states, and the head does nothing: results are the same, but all logits
            are held.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.body = model, find_body(model)
        self.vocab_size, self.owners, self.problem = 0, frozenset[str](), ""
        try:
            with evaluation_mode(model):
                self.examine()
        except Exception as error:  # each architecture does it in its own way
            self.body, self.problem = None, str(error) or repr(error)

    @classmethod
    def proven(cls, model: nn.Module) -> "BodyAndHead":
        """Divide a model whose weights are loaded, and try whether both parts give its logits."""
        body_and_head = cls(model)
        body_and_head.prove()
        return body_and_head

    def examine(self) -> None:
        """Look at the shapes on both sides of the head, and at what it reads; compute nothing.

        Raises:
            ValueError: when there is no body, or the shapes are not those of rows of tokens.
        """
        tokens = mx.array(PROBE)
        self.vocab_size = forward(self.model, tokens).shape[-1]
        if self.body is None:
            raise ValueError("its blocks are not in a part of their own")
        hidden = self.hidden(tokens)
        if hidden.ndim != 3 or hidden.shape[:2] != tokens.shape:
            raise ValueError(f"what comes before the head has the shape {hidden.shape}")
        logits = []
        self.owners = touched(self.model, lambda: logits.append(self.head(hidden[0])))
        if logits[0].shape != (tokens.size, self.vocab_size):
            raise ValueError(f"its head gives the shape {logits[0].shape}")

    def prove(self) -> None:
        """Compute the logits of a few tokens both ways; give up the division where they differ."""
        tokens = mx.array(PROBE)
        if self.body is None:
            return
        with evaluation_mode(self.model):
            wanted = forward(self.model, tokens)[0]
            found = self.head(self.hidden(tokens)[0, ::-1])[::-1]  # each row by itself
        allowed = TOLERANCE if wanted.dtype == mx.float32 else TOLERANCE_16
        wanted, found = wanted.astype(mx.float32), found.astype(mx.float32)
        difference = float(mx.abs(found - wanted).max() / standard_deviation(wanted))
        if not difference <= allowed:
            self.body = None
            self.problem = f"its logits then differ by {difference:.2g} of their deviation"

    def hidden(
        self,
        inputs: Int[mx.array, "rows seq_len"],
        segment_ids: Int[mx.array, "rows seq_len"] | None = None,
    ) -> Float[mx.array, "rows seq_len width"]:
        """Run the model up to its head; see `forward`.

        Raises:
            ValueError: when what comes before the head is no array.
        """
        if self.body is None:
            return forward(self.model, inputs, segment_ids)
        with outputs_noted([self.body]) as outputs:
            forward(self.model, inputs, segment_ids)  # its logits are dropped, so never computed
        (hidden,) = outputs
        if not isinstance(hidden, mx.array):
            raise ValueError(f"what comes before the head is a {type(hidden).__name__}")
        return hidden

    def head(self, hidden: Float[mx.array, "rows width"]) -> Float[mx.array, "rows vocab_size"]:
        """Make logits of hidden states, each row by itself."""
        if self.body is None:
            return hidden
        with intercepted([self.body], lambda call: hidden[None]):
            logits = self.model(mx.zeros((1, len(hidden)), mx.int32))
        return logits.squeeze(0)  # the gradient of `logits[0]` would be a copy of all of them

    def trainable(self) -> dict[str, mx.array]:
        """Return the weights that training changes and that the head reads, by name."""
        if self.body is None:
            return {}
        found = trainable_arrays(self.model)
        return {name: value for name, value in found.items() if owner(name) in self.owners}

    @property
    def num_trained(self) -> int:
        """Count the weights that training changes and that the head reads."""
        return sum(value.size for value in self.trainable().values())

    def head_with(
        self,
        hidden: Float[mx.array, "rows width"],
        own: dict[str, mx.array],
        values: Sequence[mx.array],
    ) -> Float[mx.array, "rows vocab_size"]:
        """Make logits with other values of some weights; the model is left with its own ones."""
        with arrays_replaced(self.model, own, values):
            return self.head(hidden)


def find_body(model: nn.Module) -> nn.Module | None:
    """Find the part that keeps the blocks; None where that is the model itself."""
    first = blocks(model)[0]
    for _, module in model.named_modules():
        lists = (value for value in module.values() if isinstance(value, list))
        if any(item is first for value in lists for item in value):
            return None if module is model else module
    return None


def owner(name: str) -> str:
    """Return the name of the module that an array belongs to."""
    return name.rpartition(".")[0]


def touched(model: nn.Module, call: Callable[[], None]) -> frozenset[str]:
    """Name the modules outside of blocks that have arrays, and of which a call reads something."""
    owners = {owner(name) for name in own_arrays(model, inside_blocks=False)}
    modules = {name: module for name, module in model.named_modules() if name in owners}
    with reads_noted(modules) as names:
        call()
    return frozenset(names)
