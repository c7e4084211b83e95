"""How long a text may be for a model as it is computed here.

Beyond its positions it was never trained. A sliding window that mlx-lm does not apply, and a rotary
embedding that changes with the length of the text, make no difference to texts that are shorter.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.rules import position_problems
from pipeline.errors import ConfigError, report_problems
from pipeline.model.source.facts import fact
from pipeline.model.source.folder import read_config

APPLIED = (
    *("afmoe", "cohere2", "exaone4", "gemma3", "gemma3_text", "gemma4_text", "gpt_oss", "olmo3"),
    *("ministral3", "smollm3"),
)
"""Architectures whose sliding window mlx-lm applies; a test tries each of them."""
WITHOUT_WINDOW = ("llama",)
"""Architectures that have none in transformers, whatever config.json says."""
SWITCHED = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")
"""Architectures whose window is off unless `use_sliding_window` is true."""
LONG = ("longrope", "su")
DEFAULT_MAX_SEQ_LEN = 2048
"""The longest document where `data.max_seq_len` is null and the model can more."""


class TextLimit(NamedTuple):
    """The longest text.

    Attributes:
        tokens: how many it may have; None for any number.
        words: the reason, for a message.
    """

    tokens: int | None
    words: str


def text_limit(config: dict[str, Any]) -> TextLimit:
    """Return how long a text may be for a model."""
    return min(limits(config), default=TextLimit(None, ""))


def limits(config: dict[str, Any]) -> Iterator[TextLimit]:
    """List what limits the length of a text."""
    positions = fact(config, "max_position_embeddings", "n_positions")
    if positions is not None:
        yield TextLimit(positions, f"the model has {positions} positions")
    window, kind = unapplied_window(config), fact(config, "model_type")
    if window is not None:
        words = f"mlx-lm does not apply the sliding_window of {kind}, which is {window} tokens"
        yield TextLimit(window, words)
    before = fact(config, "original_max_position_embeddings")
    if before is not None and (fact(config, "rope_scaling") or {}).get("type") in LONG:
        words = f"this model is computed as it is for texts of up to {before} tokens (longrope)"
        yield TextLimit(before, words)


def unapplied_window(config: dict[str, Any]) -> int | None:
    """Return the width of a sliding window that mlx-lm does not apply; None without one."""
    kind, types = fact(config, "model_type"), fact(config, "layer_types")
    is_on = fact(config, "use_sliding_window")
    is_off = is_on is False or (is_on is None and kind in SWITCHED)
    has_layers = types is None or "sliding_attention" in types
    if is_off or not has_layers or kind in APPLIED or kind in WITHOUT_WINDOW:
        return None
    return fact(config, "sliding_window") or None


def check_positions(folder: Path, values: Mapping[str, Any]) -> None:
    """Refuse settings that ask a model for longer texts than it takes.

    Args:
        folder: holds config.json.
        values: of the section `validate` or `benchmark`, or of both.

    Raises:
        ConfigError: with each of them.
    """
    tokens, words = text_limit(read_config(folder))
    if tokens is not None:
        limit = f"{words} (of {folder / 'config.json'})"
        problems = list(position_problems(limit, tokens, values))
        report_problems(ConfigError, "These parameters cannot be used:", problems)


def resolve_max_seq_len(asked: int | None, positions: int | None, words: str) -> int:
    """Choose the longest document: what was asked for, else what the model can, up to a limit.

    Args:
        asked: `data.max_seq_len`.
        positions: what the model can; None for any length.
        words: what a message says of it.

    Raises:
        ConfigError: when the model can less than was asked for.
    """
    if asked is None:
        return min(positions or DEFAULT_MAX_SEQ_LEN, DEFAULT_MAX_SEQ_LEN)
    if positions is not None and asked > positions:
        raise ConfigError(
            f"data.max_seq_len={asked}: {words}.\nSet it to {positions} or less, or to null."
        )
    return asked
