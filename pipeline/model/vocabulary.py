"""How many tokens a model knows, which a config.json may leave to its architecture."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transformers import CONFIG_MAPPING

from pipeline.errors import ModelError
from pipeline.external.hub import locate
from pipeline.external.paths import SCRATCH
from pipeline.model.limits import TextLimit, text_limit
from pipeline.model.source.facts import SAVED, fact
from pipeline.model.source.folder import read_config


def tokenizer_facts(model: DictConfig) -> tuple[Path | None, TextLimit, int]:
    """Find the tokenizer of a model, and what limits the texts for it.

    Args:
        model: the section `model`.

    Returns:
        The folder of the tokenizer, None where one is to be trained; how long a text may be; and
        how many tokens the model knows.
    """
    if model.source == SCRATCH:
        shape = model.scratch
        limit = text_limit({"max_position_embeddings": shape.max_position_embeddings})
        return None, limit, shape.vocab_size
    folder = locate(model.source, model.revision, model.allow_network, weights=False)
    facts = read_config(folder)
    return folder, text_limit(facts), vocabulary_size(folder, facts)


def vocabulary_size(folder: Path, config: dict[str, Any]) -> int:
    """Return how many tokens a model knows; of published Gemma 3, only the architecture says so.

    Raises:
        ModelError: when neither its config.json nor transformers has it.
    """
    found = fact(config, "vocab_size") or default_size(config)
    if found is None:
        raise ModelError(f"{folder / 'config.json'}: vocab_size is missing.\n{SAVED.text}")
    return found


def default_size(config: dict[str, Any]) -> int | None:
    """Return the size that transformers takes where a model of several modalities names none."""
    kind = config["model_type"]
    if config.get("text_config") is None or kind not in CONFIG_MAPPING:
        return None
    try:
        described = CONFIG_MAPPING[kind].from_dict(config)
    except Exception:  # each architecture checks its facts in its own way
        return None
    return getattr(described.get_text_config(), "vocab_size", None)
