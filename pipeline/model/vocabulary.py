"""How many tokens a model knows, which a config.json may leave to its architecture."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transformers import CONFIG_MAPPING

from pipeline.errors import ModelError
from pipeline.external.hub import locate
from pipeline.external.paths import SCRATCH
from pipeline.model.facts import SAVED, fact
from pipeline.model.folder import max_positions, read_config


def tokenizer_facts(model: DictConfig) -> tuple[Path | None, int | None, int]:
    """Find the tokenizer of a model, and what limits the texts for it.

    Args:
        model: the section `model`.

    Returns:
        The folder of the tokenizer, None where one is to be trained; the positions of the model,
        None where it does not limit them; and how many tokens it knows.
    """
    if model.source == SCRATCH:
        return None, model.scratch.max_position_embeddings, model.scratch.vocab_size
    folder = locate(model.source, model.revision, model.allow_network, weights=False)
    facts = read_config(folder)
    return folder, max_positions(facts), vocabulary_size(folder, facts)


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
