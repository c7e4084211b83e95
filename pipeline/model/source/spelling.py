"""What a config.json says in the words of transformers 5, put into those that mlx-lm reads.

mlx-lm drops words that it does not know, and computes with defaults of its own. What is added here
stands beside the words of the file, so that either library can read what is exported.
"""

from typing import Any

from pipeline.model.source.facts import NESTED

RENAMED = {
    "gpt2": {"n_ctx": "n_positions"},
    "gpt_neox": {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"},
    "lfm2": {"block_dim": "hidden_size"},
    "qwen3_moe": {"num_experts": "num_local_experts"},
}
"""Of an architecture: words of mlx-lm, and those of transformers 5 for the same facts."""
PATTERNED = ("cohere2", "gemma3_text")
"""Architectures whose layers with full attention mlx-lm finds by their distance."""
BEFORE = "original_max_position_embeddings"
SCALED_FROM = ("llama3", "longrope", "su", "yarn")
"""Types of scaling that depend on the positions before it: by default, those that there are."""
OUTSIDE = {"gemma3": ("vocab_size",)}
"""Facts of the language model that mlx-lm reads beside `text_config`, by architecture."""


def respelled(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config.json with the words of mlx-lm added."""
    if not config.get(NESTED):
        return respelled_text(config)
    text = respelled_text(config[NESTED])
    outside = {name: text.get(name) for name in OUTSIDE.get(config.get("model_type", ""), ())}
    inside = {"tie_word_embeddings": config.get("tie_word_embeddings")}
    return known(outside) | config | {NESTED: known(inside) | text}


def respelled_text(config: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a language model with the words of mlx-lm added."""
    kind = config.get("model_type", "")
    found = config | rotation(config)
    others = {name: found.get(other) for name, other in RENAMED.get(kind, {}).items()}
    if kind in PATTERNED:
        others["sliding_window_pattern"] = full_layer_distance(config)
    return known(others) | found


def rotation(config: dict[str, Any]) -> dict[str, Any]:
    """Return the rotary embedding in single words.

    `rope_parameters` goes before single words, and `rope_scaling` before both, as in transformers.
    """
    parameters = config.get("rope_parameters") or {}
    full = parameters.get("full_attention") or parameters
    sliding = parameters.get("sliding_attention") or {}
    scaling = config.get("rope_scaling") or full
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    words = {name: full.get(name) for name in ("rope_theta", "partial_rotary_factor")}
    words["rope_local_base_freq"] = sliding.get("rope_theta")
    if kind in SCALED_FROM:
        before = config.get(BEFORE) or scaling.get(BEFORE) or config.get("max_position_embeddings")
        scaling = {**scaling, **known({BEFORE: before})}
        words |= {BEFORE: before} if kind == "longrope" else {}
    if not scaling:
        return known(words)
    plain = kind == "default"
    return known(words) | {
        "rope_scaling": None if plain else {**scaling, "type": kind, "rope_type": kind}
    }


def full_layer_distance(config: dict[str, Any]) -> int | None:
    """Return how far layers with full attention are apart; None where that varies."""
    types = config.get("layer_types") or []
    if "full_attention" not in types:
        return None
    distance = types.index("full_attention") + 1
    expected = [(index + 1) % distance == 0 for index in range(len(types))]
    return distance if [each == "full_attention" for each in types] == expected else None


def known(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts that have a value."""
    return {name: value for name, value in facts.items() if value is not None}
