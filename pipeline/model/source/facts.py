"""What a config.json may say: the types and ranges of what decides how a model computes."""

from collections.abc import Mapping
from typing import Any

from pipeline.errors import ModelError
from pipeline.external.json_files import Remedy
from pipeline.external.shapes import (
    FLAG,
    TEXT,
    Every,
    Kind,
    Maybe,
    Shape,
    is_finite,
    one_or_more,
    whole,
)

SAVED = Remedy(ModelError, "Use the config.json that the model was saved with.")
SIZE = whole(1, 1 << 24)
SIZES = one_or_more(whole(0, 1 << 24))
"""A number for all layers, or one for each, some of which may lack a part."""
POSITIONS = whole(1, 1 << 31)
EXPERTS = whole(0, 10_000)
EPSILON = Kind("a number above 0 and below 1", lambda value: is_finite(value) and 0 < value < 1)
POSITIVE = Kind("a number above 0", lambda value: is_finite(value) and value > 0)
SHARE = Kind("a number above 0 and at most 1", lambda value: is_finite(value) and 0 < value <= 1)
LAYER_TYPES = ("full_attention", "sliding_attention")
ANYTHING = Kind("anything", lambda value: True)
FACTS: dict[str, Shape] = {
    "model_type": TEXT,
    "vocab_size": SIZE,
    "hidden_size": SIZE,
    "intermediate_size": SIZES,
    "num_hidden_layers": whole(1, 10_000),
    "num_attention_heads": one_or_more(SIZE),
    "num_key_value_heads": SIZES,
    "head_dim": SIZES,
    "num_experts": EXPERTS,
    "num_local_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": EXPERTS,
    "max_position_embeddings": POSITIONS,
    "n_positions": POSITIONS,
    "original_max_position_embeddings": POSITIONS,
    "layer_types": [TEXT],
    "sliding_window": whole(0, 1 << 31),
    "use_sliding_window": FLAG,
    "rope_theta": POSITIVE,
    "partial_rotary_factor": SHARE,
    "rms_norm_eps": EPSILON,
    "layer_norm_eps": EPSILON,
    "layer_norm_epsilon": EPSILON,
    "norm_eps": EPSILON,
    "tie_word_embeddings": FLAG,
    "torch_dtype": TEXT,
    "dtype": TEXT,
    "quantization": Every(ANYTHING),
    "quantization_config": Every(ANYTHING),
}
"""Facts that are read here or change numbers."""
ROTATION: dict[str, Kind] = {
    "rope_type": TEXT,
    "type": TEXT,
    "rope_theta": POSITIVE,
    "factor": POSITIVE,
    "attention_factor": POSITIVE,
    "beta_fast": POSITIVE,
    "beta_slow": POSITIVE,
    "truncate": FLAG,
    "partial_rotary_factor": SHARE,
    "original_max_position_embeddings": POSITIONS,
}
"""Facts of rotary embeddings; those of some architectures differ from layer to layer."""
NESTED = "text_config"
"""Where a model of several modalities keeps the facts of its language model."""


def optional(facts: Mapping[str, Any]) -> dict[str, Maybe]:
    """Return the shape of an object that has only some facts."""
    return {name: Maybe(kind) for name, kind in facts.items()}


ONE_ROTATION = optional(ROTATION)
ROTATIONS = ONE_ROTATION | optional(dict.fromkeys(LAYER_TYPES, ONE_ROTATION))
TEXT_SHAPE = optional(FACTS | {"rope_parameters": ROTATIONS, "rope_scaling": ONE_ROTATION})
SHAPE = TEXT_SHAPE | optional({NESTED: TEXT_SHAPE})
"""Of a config.json: an architecture has only some of the facts."""


def fact(config: dict[str, Any], *names: str) -> Any:  # noqa: ANN401
    """Return the first of some facts that a config.json has; None where it has none of them.

    Those of a language model among several modalities go before what stands outside of it.
    """
    parts = (language_part(config), config)
    return next(
        (part[name] for name in names for part in parts if part.get(name) is not None), None
    )


def language_part(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a config.json that describes the language model: most often all of it."""
    return config.get(NESTED) or config


def with_facts(config: dict[str, Any], **facts: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a copy with other values for those facts that it has, wherever they stand."""
    parts = [config, config.get(NESTED) or {}]
    outer, inner = ({**part, **shared(facts, part)} for part in parts)
    return outer | ({NESTED: inner} if inner else {})


def shared(facts: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return those facts that a part of a config.json has."""
    return {name: value for name, value in facts.items() if name in part}
