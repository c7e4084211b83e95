"""What a config.json may say: the types and ranges of what decides how a model computes."""

from typing import Any

from pipeline.errors import ModelError
from pipeline.external.json_files import Remedy
from pipeline.external.shapes import FLAG, TEXT, Every, Kind, Maybe, is_finite, one_or_more, whole

SAVED = Remedy(ModelError, "Use the config.json that the model was saved with.")
SIZE = whole(1, 1 << 24)
SIZES = one_or_more(whole(0, 1 << 24))
"""A number for all layers, or one for each, some of which may lack a part."""
POSITIONS = whole(1, 1 << 31)
EXPERTS = whole(0, 10_000)
EPSILON = Kind("a number above 0 and below 1", lambda value: is_finite(value) and 0 < value < 1)
POSITIVE = Kind("a number above 0", lambda value: is_finite(value) and value > 0)
SHARE = Kind("a number above 0 and at most 1", lambda value: is_finite(value) and 0 < value <= 1)
ANYTHING = Kind("anything", lambda value: True)
FACTS: dict[str, Kind | Every] = {
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
    "max_position_embeddings": POSITIONS,
    "n_positions": POSITIONS,
    "original_max_position_embeddings": POSITIONS,
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
    "text_config": Every(ANYTHING),
}
"""Facts that are read here or change numbers."""
SHAPE = {name: Maybe(kind) for name, kind in FACTS.items()}
"""Of a config.json: an architecture has only some of the facts."""


def fact(config: dict[str, Any], *names: str) -> Any:  # noqa: ANN401
    """Return the first of some facts that a config.json has; None where it has none of them."""
    return next((config[name] for name in names if config.get(name) is not None), None)
