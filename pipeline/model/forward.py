"""Running a model over a batch, whichever way its documents are arranged."""

from typing import Any

from jaxtyping import Bool, Float, Int

from pipeline.device import mx, nn
from pipeline.errors import ConfigError
from pipeline.model import upstream
from pipeline.model.tree import blocks


class SegmentMask:
    """Lets a token attend only to earlier tokens of its own document.

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
        """Give the block-diagonal causal mask; True may be attended to."""
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
    """Give the logits of a batch.

    Args:
        model: one of mlx-lm's.
        inputs: token ids; a row may be padded at its end.
        segment_ids: which document each token is of, where rows hold several; else None, and the
            causal mask alone keeps padding away from what counts.
    """
    if segment_ids is None:
        return model(inputs)
    return model(inputs, cache=[SegmentMask(segment_ids)] * len(blocks(model)))


def check_packable(model: nn.Module) -> None:
    """Refuse to pack documents for a model that carries state from token to token.

    Raises:
        ConfigError: when a layer is no attention layer.
    """
    kinds = {type(cache).__name__ for cache in upstream.make_prompt_cache(model)}
    if foreign := sorted(kinds - {"KVCache", "RotatingKVCache"}):
        raise ConfigError(
            f"data.arrangement=packed: this model keeps {', '.join(foreign)}, which would leak "
            "from one document into the next. Use data.arrangement=bucketed."
        )


def checkpoint_blocks(model: nn.Module) -> None:
    """Recompute each block in the backward pass instead of keeping its activations.

    Each block object gets a class of its own; other models of the same architecture in this
    process are not touched. (arXiv 1604.06174)
    """
    for block in blocks(model):
        block.__class__ = checkpointed(type(block))


def checkpointed(kind: type[nn.Module]) -> type[nn.Module]:
    """Derive a block class whose call keeps only its input for the backward pass."""

    def call(self: nn.Module, hidden: mx.array, *args: Any, **kwargs: Any) -> mx.array:  # noqa: ANN401
        def run(parameters: dict[str, Any], hidden: mx.array) -> mx.array:
            self.update(parameters)
            return kind.__call__(self, hidden, *args, **kwargs)

        return mx.checkpoint(run)(self.trainable_parameters(), hidden)

    return type(f"Checkpointed{kind.__name__}", (kind,), {"__call__": call})
