"""Closed formulas for a step: the least memory it needs, and its floating-point operations.

They need only shapes. The traced graph gives more exact numbers; these formulas are a bound to
compare them with, and replace them where the graph cannot be traced.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.device import mx, nn
from pipeline.model.body_and_head import BodyAndHead
from pipeline.model.network.targets import EMBEDDINGS, LINEAR
from pipeline.model.network.tree import blocks, dimensions, named_arrays, trainable_arrays
from pipeline.model.source.facts import fact
from pipeline.objective.chunked_head import CHUNK_COPIES, chunk_rows

SCORE_COPIES = 2.5
"""Score matrices that a block keeps (arXiv 2205.05198 §4.1: 5 · heads · s² bytes in 16 bits)."""
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Linear:
    """A matrix that tokens are multiplied by; of experts, only those count that a token uses."""

    inputs: int
    outputs: int
    num_seen: int

    @property
    def size(self) -> int:
        """Count the weights that a token is multiplied by."""
        return self.inputs * self.outputs * self.num_seen


@dataclass(frozen=True)
class Shape:
    """Sizes of a model that the formulas need.

    Attributes:
        blocks: their matrices.
        first_trained: the first block that is differentiated; the number of blocks if none is.
        head: weights of the output head.
        chunk_rows: rows whose logits are held at a time; None: all.
        vocab_size: logits of a token.
        num_heads: heads of attention.
        num_trainable: weights that are trained.
        trains_matrices: whether the matrices themselves are trained, not adapters.
        itemsize: bytes of an activation.
    """

    blocks: tuple[tuple[Linear, ...], ...]
    first_trained: int
    head: int
    chunk_rows: int | None
    vocab_size: int
    num_heads: int
    num_trainable: int
    trains_matrices: bool
    itemsize: int

    @property
    def width(self) -> int:
        """The width of the residual stream, from which most matrices read."""
        return Counter(linear.inputs for linear in self.blocks[0]).most_common(1)[0][0]

    @property
    def num_trained(self) -> int:
        """Count the blocks that are differentiated."""
        return len(self.blocks) - self.first_trained

    def weights(self, first: int = 0) -> int:
        """Count the weights that a token is multiplied by from a block on, head included."""
        return sum(linear.size for block in self.blocks[first:] for linear in block) + self.head

    def rows_at_once(self, tokens: int) -> int:
        """Count the rows, of so many tokens, whose logits are held at a time."""
        return tokens if self.chunk_rows is None else min(self.chunk_rows, tokens)

    def kept_per_token(self) -> int:
        """Count the numbers that one block keeps for a token where attention is fused.

        These are the results of its matrices, their inputs, and twice the residual stream: for a
        Llama 6h + 2h_kv + 3f.
        """
        block = max(self.blocks, key=lambda block: sum(linear.outputs for linear in block))
        results = sum(linear.outputs * linear.num_seen for linear in block)
        read = sum({linear.inputs: linear.inputs * linear.num_seen for linear in block}.values())
        return results + read + 2 * self.width


def shape_of(model: nn.Module, config: dict[str, Any], trains_matrices: bool) -> Shape:
    """Read the shape of a model with its adapters from its modules."""
    seen = fact(config, "num_experts_per_tok") or 1
    layers = [tuple(linears(block, seen)) for block in blocks(model)]
    trained = [index for index, block in enumerate(blocks(model)) if trainable_arrays(block)]
    inside = {id(module) for block in blocks(model) for module in block.modules()}
    outside = [module for _, module in model.named_modules() if id(module) not in inside]
    heads = [size(module) for module in outside if isinstance(module, LINEAR)]
    tables = [size(module) for module in outside if isinstance(module, EMBEDDINGS)]
    head = sum(heads) or max(tables, default=0)
    weights = named_arrays(model.parameters()).values()
    body_and_head = BodyAndHead(model)
    front = any(is_table(module) and trainable_arrays(module) for module in outside)
    return Shape(
        blocks=tuple(layers),
        first_trained=0 if front else min(trained, default=len(layers)),
        head=head,
        chunk_rows=chunk_rows(body_and_head.vocab_size, body_and_head.num_trained)
        if body_and_head.body
        else None,
        vocab_size=body_and_head.vocab_size,
        num_heads=most_heads(config),
        num_trainable=sum(value.size for value in trainable_arrays(model).values()),
        trains_matrices=trains_matrices,
        itemsize=next(each.itemsize for each in weights if mx.issubdtype(each.dtype, mx.floating)),
    )


def most_heads(config: dict[str, Any]) -> int:
    """Return the heads of the layer that has most of them."""
    heads = fact(config, "num_attention_heads") or 0
    return max(heads, default=0) if isinstance(heads, list) else heads


def is_table(module: nn.Module) -> bool:
    """Whether a module is an embedding; it may carry an adapter."""
    return isinstance(module, EMBEDDINGS) or "embedding" in module


def linears(module: nn.Module, num_seen: int) -> Iterator[Linear]:
    """List the matrices inside a module."""
    for _, layer in module.named_modules():
        if isinstance(layer, LINEAR):
            outputs, inputs = dimensions(layer)
            yield Linear(inputs, outputs, num_seen if layer["weight"].ndim > 2 else 1)


def size(layer: Any) -> int:  # noqa: ANN401
    """Count the weights of a matrix."""
    outputs, inputs = dimensions(layer)
    return outputs * inputs


def chunk_bytes(shape: Shape, tokens: int) -> int:
    """Count the bytes of the loss: a chunk of logits, and a gradient per token."""
    logits = CHUNK_COPIES * shape.rows_at_once(tokens) * shape.vocab_size * FLOAT32_BYTES
    return logits + tokens * shape.width * shape.itemsize


def floor_bytes(shape: Shape, held_bytes: int, tokens: int) -> int:
    """Compute the least memory of a step in bytes, with recomputation and fused attention.

    Args:
        shape: of the model.
        held_bytes: weights, gradients and the optimizer's state.
        tokens: of one micro-batch, padding included.
    """
    inputs = tokens * shape.width * shape.num_trained * shape.itemsize
    block = tokens * shape.kept_per_token() * shape.itemsize
    return held_bytes + inputs + block + chunk_bytes(shape, tokens)


def estimated_bytes(
    shape: Shape, held_bytes: int, rows: int, width: int, checkpointed: bool, fused: bool
) -> int:
    """Estimate the peak in bytes of a step whose graph cannot be traced."""
    tokens = rows * width
    scores = 0 if fused else SCORE_COPIES * tokens * width * shape.num_heads * shape.itemsize
    block = tokens * shape.kept_per_token() * shape.itemsize + round(scores)
    inputs = tokens * shape.width * shape.num_trained * shape.itemsize
    kept = inputs + block if checkpointed else block * shape.num_trained
    return held_bytes + kept + chunk_bytes(shape, tokens)


def matrix_passes(shape: Shape) -> int:
    """Count the multiplications of a token with weights in a step.

    Each weight counts once in the forward pass. From the first trained block on it counts once more
    for the gradient of the activations, and again where matrices are trained.
    """
    trained = shape.weights(shape.first_trained)
    return shape.weights() + trained * (2 if shape.trains_matrices else 1)


def forward_flops(shape: Shape, tokens: int, width: int) -> int:
    """Count the floating-point operations of a forward pass over tokens in rows of a width."""
    attention = 2 * width * shape.width * len(shape.blocks)
    return tokens * (2 * shape.weights() + attention)


def step_flops(
    shape: Shape, rows: int, width: int, checkpointed: bool, cached: bool = False
) -> int:
    """Count the floating-point operations of a step (arXiv 2001.08361 §2.1, for each pass).

    Forward 2P a token; backward 2P for activations from the first trained block on, and as much
    again where matrices are trained; recomputation is a second forward pass of those blocks.
    Frozen blocks do not count where their outputs are stored (`cached`).
    Adapters take 6 operations a weight; causal attention 2 · s · h of a block and pass.
    """
    passes = matrix_passes(shape)
    visits = len(shape.blocks) + 2 * shape.num_trained
    if checkpointed:
        passes += shape.weights(shape.first_trained) - shape.head
        visits += shape.num_trained
    if cached:
        passes -= shape.weights() - shape.weights(shape.first_trained)
        visits -= shape.first_trained
    adapters = 0 if shape.trains_matrices else 6 * shape.num_trainable
    attention = 2 * width * shape.width * visits
    return rows * width * (2 * passes + adapters + attention)
