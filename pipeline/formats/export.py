"""Writes the formats that are asked for, and refuses one that is read back as another model."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.store import TokenStore, held_out_store
from pipeline.device import mx, nn
from pipeline.files import new_folder, read_json
from pipeline.formats import adapter, fused
from pipeline.formats.proof import compare, require_agreement
from pipeline.model.adapters import CONFIG, load_adapter
from pipeline.model.base import load_base
from pipeline.model.forward import forward

PROOF_DOCUMENTS = 8
PROOF_TOKENS = 128


def export(
    base: Path, trained: Path, prepared: Path, formats: list[str], target: Callable[[str], Path]
) -> dict[str, Any]:
    """Write a trained model in each format, and read it back.

    Args:
        base: models/base.
        trained: the adapter to export.
        prepared: data/prepared, for rows to compare logits on.
        formats: names from `WRITERS`.
        target: returns the folder of a format.

    Returns:
        How the model was trained, and the proof of each format.

    Raises:
        ExportError: when what is read back is not the trained model.
    """
    config = read_json(trained / CONFIG)
    inputs = proof_inputs(held_out_store(prepared))
    loaded = load_base(base, "float32")
    base_logits = evaluated(loaded.model, inputs)
    load_adapter(loaded.model, trained)
    tuned_logits = evaluated(loaded.model, inputs)
    metrics: dict[str, Any] = {}
    for name in formats:
        with new_folder(target(name)) as folder:
            exported, rounded = WRITERS[name](loaded, base, trained, folder)
            proof = compare(base_logits, tuned_logits, evaluated(exported, inputs))
            require_agreement(name, proof, rounded)
        metrics[name] = dataclasses.asdict(proof)
    return {"fine_tune_type": config["fine_tune_type"], **metrics}


WRITERS = {"adapter": adapter.export, "fused": fused.export}
"""How each format is written and read back; `EXPORT_FORMATS` of the schema names the same.

A writer takes the tuned model in float32, models/base, the adapter and the folder to write. It
returns the model as another program reads it, and whether the format rounds float32.
"""


def proof_inputs(store: TokenStore) -> mx.array:
    """Take rows of held-out text, cut or padded to one length.

    Returns:
        Token ids, (rows, seq_len), at most `PROOF_DOCUMENTS` by `PROOF_TOKENS`.
    """
    count = min(PROOF_DOCUMENTS, len(store))
    width = min(PROOF_TOKENS, int(store.lengths[:count].max()))
    rows = np.zeros((count, width), dtype=np.int32)
    for row in range(count):
        tokens = store.tokens(row)[:width]
        rows[row, : len(tokens)] = tokens
    return mx.array(rows)


def evaluated(model: nn.Module, inputs: mx.array) -> mx.array:
    """Compute the float32 logits of rows, (rows, seq_len, vocab_size), before the model changes.

    The model is set to evaluation.
    """
    model.eval()
    logits = forward(model, inputs).astype(mx.float32)
    mx.eval(logits)
    return logits
