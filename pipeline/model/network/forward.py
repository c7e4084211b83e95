"""Running a model over a batch, whichever way its documents are arranged."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from jaxtyping import Bool, Float, Int

from pipeline.device import mx, nn
from pipeline.errors import ConfigError
from pipeline.model.network import upstream
from pipeline.model.network.intercept import Call, intercept
from pipeline.model.network.tree import blocks
from pipeline.sums import standard_deviation

PACKING_TOLERANCE, PACKING_TOLERANCE_16 = 1e-3, 0.1
"""Shares of the logits' deviation that float32 and 16-bit numbers may differ by."""


class SegmentMask:
    """Limits the attention of a token to earlier tokens of the same document.

    mlx-lm's models ask their cache for the attention mask, so this stands in for a cache that
    remembers nothing. Positions run on over the borders: rotary embeddings are relative.
    """

    offset = 0

    def __init__(self, segment_ids: Int[mx.array, "rows seq_len"]) -> None:
        self.segment_ids = segment_ids

    def make_mask(
        self,
        length: int,
        return_array: bool = False,
        window_size: int | None = None,
    ) -> Bool[mx.array, "rows 1 seq_len seq_len"]:
        """Return the block-diagonal causal mask; True may be attended to."""
        del return_array  # it is an array in any case
        causal = upstream.create_causal_mask(length, window_size=window_size)
        same = self.segment_ids[:, :, None] == self.segment_ids[:, None, :]
        return (same & causal)[:, None]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Remember nothing: the keys and values of this batch are all there are."""
        return keys, values


def forward(
    model: nn.Module,
    inputs: Int[mx.array, "rows seq_len"],
    segment_ids: Int[mx.array, "rows seq_len"] | None = None,
) -> Float[mx.array, "rows seq_len vocab_size"]:
    """Compute the logits of a batch.

    Args:
        model: one of mlx-lm's.
        inputs: token ids; a row may be padded at its end.
        segment_ids: which document each token is of, where rows hold several; else None, and the
            causal mask alone keeps padding away from what counts.
    """
    if segment_ids is None:
        return model(inputs)
    return model(inputs, cache=[SegmentMask(segment_ids)] * len(blocks(model)))


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Leave out dropout, which would draw random numbers, until the end of the `with`."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def check_packable(model: nn.Module) -> None:
    """Refuse packing where the output for a document depends on the document packed before it.

    Raises:
        ConfigError: when a layer is no attention layer, or a probe shows a difference.
    """
    kinds = {type(cache).__name__ for cache in upstream.make_prompt_cache(model)}
    remedy = "Use data.arrangement=bucketed."
    if foreign := sorted(kinds - {"KVCache", "RotatingKVCache"}):
        raise ConfigError(
            f"data.arrangement=packed: this model keeps {', '.join(foreign)}, which would leak "
            f"from one document into the next. {remedy}"
        )
    try:
        difference, allowed = packing_difference(model)
    except ValueError as error:
        raise ConfigError(
            f"data.arrangement=packed: this model takes no mask of our own ({error}). {remedy}"
        ) from error
    if not difference <= allowed:
        raise ConfigError(
            "data.arrangement=packed: this model's output for a document depends on the document "
            f"packed before it: its logits differ by {difference:.2g} of their deviation. Its "
            f"positions may be absolute, or it masks in its own way. {remedy}"
        )


def packing_difference(model: nn.Module) -> tuple[float, float]:
    """Pack a document in three places of two rows that are divided differently; compare logits.

    Returns:
        The greatest difference as a share of the logits' deviation, and what rounding may cause.
    """
    rows = mx.array([[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 0, 1, 2, 3, 2, 3]])
    segment_ids = mx.array([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 2, 2]])
    with evaluation_mode(model):  # dropout would tell them apart
        logits = forward(model, rows, segment_ids)
    found = logits.astype(mx.float32)
    copies = mx.stack([found[0, :4], found[0, 4:], found[1, 2:6]])
    difference = float(mx.abs(copies - copies[:1]).max() / standard_deviation(copies))
    return difference, PACKING_TOLERANCE if logits.dtype == mx.float32 else PACKING_TOLERANCE_16


def checkpoint_blocks(model: nn.Module) -> None:
    """Recompute each block in the backward pass instead of keeping its activations.

    Other models of the same architecture in this process are not touched. (arXiv 1604.06174)
    """
    for block in blocks(model):
        intercept(block, recomputed)


def recomputed(call: Call) -> mx.array:
    """Run a block so that only its input is kept for the backward pass.

    The backward pass must drop the same units as the forward pass: where random numbers were
    drawn, it starts from the key that the forward pass started from.
    """
    first = random_key()

    def run(parameters: dict[str, Any], hidden: mx.array) -> mx.array:
        now = random_key()
        call.module.update(parameters)
        if now is first:  # the forward pass, or a model without random numbers
            return call.run(hidden)
        set_random_key(first)
        output = call.run(hidden)
        set_random_key(now)
        return output

    return mx.checkpoint(run)(call.module.trainable_parameters(), call.args[0])


def random_key() -> mx.array:
    """Return the key of MLX's random numbers; the same object until one is drawn."""
    return cast(list[mx.array], mx.random.state)[0]


def set_random_key(key: mx.array) -> None:
    """Go on drawing from a key; MLX lets it be set by a seed only, whose halves it is."""
    high, low = cast(list[int], key.tolist())
    mx.random.seed((high << 32) | low)
