"""Logits of a model on held-out rows, kept in a file: three sets may be larger than the model."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from pipeline.data.batches import PROOF_DOCUMENTS, PROOF_TOKENS
from pipeline.data.store import TokenStore
from pipeline.device import mx, nn, tree_map
from pipeline.model.network.forward import evaluation_mode, forward
from pipeline.model.network.intercept import Call, intercepted
from pipeline.model.network.tree import blocks, materialize

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
    """Compute the float32 logits of rows, with the weights of one block in memory at a time.

    Args:
        model: a causal language model whose weights are not read yet; its blocks have none after.
        inputs: token ids.
        folder: on a disk with room for the logits; their file has no name there.

    Returns:
        A view of the file, of which the system keeps in memory what there is room for.
    """
    with tempfile.TemporaryFile(dir=folder) as file, evaluation_mode(model):
        with intercepted(unique(blocks(model)), run_and_release):
            logits = np.asarray(forward(model, inputs).astype(mx.float32))
        file.write(logits.data)
        file.flush()
        return np.memmap(file, np.float32, "r", shape=logits.shape)


def unique(modules: list[nn.Module]) -> list[nn.Module]:
    """Return the modules that are there once; the weights of others are needed again."""
    return [module for module in modules if sum(module is other for other in modules) == 1]


def run_and_release(call: Call) -> Any:  # noqa: ANN401
    """Read the weights of a block, run it, and drop them."""
    materialize(call.module)
    output = call.run()
    mx.eval(output)
    call.module.update(tree_map(lambda _: mx.array([]), call.module.parameters()))
    return output
