"""Whether the output head is the embedding: what config.json leaves open, the files decide.

mlx-lm and transformers have defaults of their own, which differ from each other.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.device import mx
from pipeline.model.network.build import build
from pipeline.model.network.head import TIED
from pipeline.model.network.tree import shapes
from pipeline.model.source.facts import NESTED, fact
from pipeline.model.source.folder import WeightFile

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def tied_by_files(config: dict[str, Any], files: Iterable[WeightFile]) -> dict[str, Any]:
    """Return a config.json that says whether the head is the embedding, as the files have it.

    Args:
        config: of the model.
        files: their headers.
    """
    names = {tensor.name for file in files for tensor in file.tensors}
    has_head, has_embedding = (ends_any(names, name) for name in (HEAD, "embed_tokens.weight"))
    if fact(config, TIED) is not None or not (has_head or has_embedding):
        return config
    text = {NESTED: {**config[NESTED], TIED: not has_head}} if config.get(NESTED) else {}
    return {**config, TIED: not has_head, **text}


def ends_any(names: Iterable[str], end: str) -> bool:
    """Whether a name is this one, or ends with it after a dot."""
    return any(f".{name}".endswith(f".{end}") for name in names)


def tied_problems(weights: Mapping[str, mx.array], config: dict[str, Any]) -> list[str]:
    """List an output head that differs from the embedding used in its place."""
    head, embedding = weights.get(HEAD), weights.get(EMBEDDING)
    if head is None or embedding is None or HEAD in shapes(build(config).parameters()):
        return []
    if head.shape == embedding.shape and bool(mx.array_equal(head, embedding)):
        return []
    return [
        f"{HEAD}: differs from {EMBEDDING}, which stands for it "
        f"({TIED}={config.get(TIED, 'absent')})"
    ]
