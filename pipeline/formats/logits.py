"""Logits of a model on held-out rows, kept in a file: three sets may be larger than the model."""

import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

from pipeline.data.store import TokenStore
from pipeline.device import mx, nn
from pipeline.model.forward import evaluation_mode, forward

PROOF_DOCUMENTS = 8
PROOF_TOKENS = 128

Logits = Float32[np.ndarray, "rows seq_len vocab_size"]


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


def logits_of(model: nn.Module, inputs: Int[mx.array, "rows seq_len"], folder: Path) -> Logits:
    """Compute the float32 logits of rows, one row after the other.

    Args:
        model: a causal language model.
        inputs: token ids.
        folder: on a disk with room for the logits; their file has no name there.

    Returns:
        A view of the file, of which the system keeps in memory what there is room for.
    """
    shape = (0,)
    with tempfile.TemporaryFile(dir=folder) as file, evaluation_mode(model):
        for row in inputs:
            logits = np.asarray(forward(model, row[None]).astype(mx.float32))
            file.write(logits.data)
            shape = (len(inputs), *logits.shape[1:])
        file.flush()
        return np.memmap(file, np.float32, "r", shape=shape)
