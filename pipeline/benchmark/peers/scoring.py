"""The one judge of all adapters: our loss on the same rows, always the same way."""

from pathlib import Path

import numpy as np

from pipeline.benchmark.peers.corpus import Material
from pipeline.data.batches import evaluation_batches
from pipeline.data.store import TokenStore
from pipeline.model.adapters import load_adapter
from pipeline.model.base import load_base
from pipeline.objective.likelihood import document_losses

BATCH_TOKENS = 2048


class Scorer:
    """Scores adapters on the rows that are held out.

    Args:
        material: the model they are for, and the rows.
    """

    def __init__(self, material: Material) -> None:
        self.material = material
        self.store = TokenStore(material.prepared / "validation")
        self._losses = dict[Path | None, float]()

    def loss(self, adapter: Path | None) -> float:
        """Give the loss in nats per target; of the model alone where there is no adapter."""
        if adapter not in self._losses:
            model = load_base(self.material.model, "auto").model
            if adapter is not None:
                load_adapter(model, adapter)
            batches = evaluation_batches(
                self.store,
                np.arange(len(self.store)),
                arrangement="bucketed",
                width=int(self.store.lengths.max()),
                batch_tokens=BATCH_TOKENS,
            )
            self._losses[adapter] = document_losses(model, batches).mean
        return self._losses[adapter]
