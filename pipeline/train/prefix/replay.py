"""The frozen prefix in a run: each document goes through it once, for all epochs and all runs.

What decides bits. The activations of a document are computed from its own tokens alone, in a row
by itself and without padding, whoever asks for it and beside whatever. So they are a function of
the document, and it does not matter in which step, in which run or before which interruption they
were computed, nor whether they were stored at all: what does not fit under the budget is computed
in the same way each time. They are computed when first asked for. A pass before step 1 would cost
as much as it saves in the first epoch, and a run shorter than an epoch would pay for what it never
uses. What a document of a few dozen tokens loses by not sharing its products with others is small
on a CPU, there is no padding, and a few documents are worked on side by side.

Where it lies. In `models/prefix` of the repository, for runs by hand and under DVC alike, each
store under the hash of what its bits depend on. It is no out of a DVC stage: DVC would hash
gigabytes at each `dvc status`, and a run by hand that adds a document would make the stage run
again, though no result depends on how full the store is. What DVC tracks is `metrics/prefix.json`,
which names the stores that a run used and how well they answered.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt

from pipeline.data.batches import Batch
from pipeline.data.store import TOKENS, TokenStore
from pipeline.device import mx, nn, num_lanes, numerics_fingerprint
from pipeline.errors import ModelError
from pipeline.files import cached_sha256_file
from pipeline.model.prefix import FrozenPrefix, find_prefix, frozen_depth
from pipeline.model.tree import blocks
from pipeline.train.checkpoints.state import Progress
from pipeline.train.cpu_streams import Lanes
from pipeline.train.observer import Watch
from pipeline.train.prefix.store import ActivationCache, ActivationStore

UNSIGNED = {2: mx.uint16, 4: mx.uint32}
"""Types as wide as floating-point numbers; NumPy does not have all of those."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrefixSettings:
    """Where activations of frozen blocks are kept.

    Attributes:
        folder: of all stores.
        budget_bytes: what they may take on the disk together.
        base: what tells the weights and their type from others.
    """

    folder: Path
    budget_bytes: int
    base: dict[str, str]


class NoPrefix:
    """Every block is run in every step."""

    def replayed(
        self, store: TokenStore, batches: Iterable[Batch], progress: Progress
    ) -> Iterator[Batch]:
        """Give batches on."""
        del store, progress
        return iter(batches)

    def facts(self, progress: Progress) -> dict[str, Any]:
        """Describe it for the metrics."""
        del progress
        facts = {"frozen_blocks": 0, "cache_hit_rate": None, "cache_bytes": 0, "seconds": 0.0}
        return {**facts, "stores": {}}


@dataclass
class CachedPrefix(NoPrefix):
    """The frozen blocks are run for documents that are not stored, and no others.

    Attributes:
        prefix: of the model that is trained.
        settings: where activations are kept.
        width: numbers of an activation.
        dtype: of these numbers.
    """

    prefix: FrozenPrefix
    settings: PrefixSettings
    width: int
    dtype: mx.Dtype
    stores: dict[TokenStore, ActivationStore | None] = field(default_factory=dict)
    lanes: Lanes = field(default_factory=Lanes)

    def replayed(
        self, store: TokenStore, batches: Iterable[Batch], progress: Progress
    ) -> Iterator[Batch]:
        """Give batches on; while one is out, the model goes on from its activations.

        Args:
            store: where the documents of the batches are.
            batches: each is done with when the next one is asked for.
            progress: look-ups are counted here.
        """
        for batch in batches:
            started = time.monotonic()
            hidden = self.gather(store, batch, progress)
            progress.prefix_seconds += time.monotonic() - started
            with self.prefix.replay(hidden):
                del hidden
                yield batch

    def gather(
        self, store: TokenStore, batch: Batch, progress: Progress
    ) -> Float[mx.array, "rows seq_len width"]:
        """Lay out activations as the tokens of a batch lie; padding is 0."""
        shape = (*batch.inputs.shape, self.width)
        bits = np.zeros(shape, f"<u{self.dtype.size}")
        documents = batch.documents.tolist()
        found = self.activations(store, list(dict.fromkeys(documents)), progress)
        for index, document in enumerate(documents):
            bits[batch.segment_ids == index + 1] = found[document]
        hidden = mx.array(bits).view(self.dtype)
        mx.eval(hidden)  # it is used on another stream than this one, by another thread
        return hidden

    def activations(
        self, store: TokenStore, documents: list[int], progress: Progress
    ) -> dict[int, UInt[np.ndarray, "positions width"]]:
        """Read the activations of different documents, or compute and store them."""
        stored = self.opened(store)
        read = {} if stored is None else {each: stored.read(each) for each in documents}
        found = {document: values for document, values in read.items() if values is not None}
        progress.prefix_lookups += len(documents)
        progress.prefix_hits += len(found)
        missing = [document for document in documents if document not in found]
        for document, values in zip(missing, self.computed(store, missing), strict=True):
            found[document] = values
            if stored is not None:
                stored.write(document, values)
        return found

    def computed(
        self, store: TokenStore, documents: list[int]
    ) -> Iterator[UInt[np.ndarray, "positions width"]]:
        """Run the frozen blocks over documents, each by itself, and a few of them side by side."""
        for start in range(0, len(documents), num_lanes()):
            outputs = self.outputs(store, documents[start : start + num_lanes()])
            yield from (np.array(output[0].view(UNSIGNED[self.dtype.size])) for output in outputs)

    def outputs(self, store: TokenStore, documents: list[int]) -> list[mx.array]:
        """Give what the frozen blocks make of a few documents, evaluated."""
        inputs = [mx.array(store.tokens(document)[None, :-1]) for document in documents]
        if num_lanes() == 1:
            return [self.prefix.record(each) for each in inputs]
        # The weights, which all graphs refer to, have been evaluated by `find_prefix`; see `lanes`.
        outputs = list[mx.array]()
        for lane, each in enumerate(inputs):
            with mx.stream(self.lanes.stream(lane)):
                outputs.append(self.prefix.record(each))
        self.lanes.side_by_side(mx.eval, outputs)
        return outputs

    def opened(self, store: TokenStore) -> ActivationStore | None:
        """Open the activations of a split when they are first asked for; None where they cannot."""
        if store not in self.stores:
            cache = ActivationCache(self.settings.folder, self.settings.budget_bytes)
            try:
                positions = store.lengths - 1
                self.stores[store] = cache.open(
                    self.facts_of(store), positions, self.width, self.dtype.size
                )
            except OSError as error:
                self.stores[store] = None
                log.warning(
                    "%s: activations cannot be kept there (%s).\nTraining goes on to the same "
                    "result; they are computed again each time.",
                    self.settings.folder,
                    error,
                )
        return self.stores[store]

    def facts_of(self, store: TokenStore) -> dict[str, Any]:
        """List what decides the activations of a split to the bit."""
        lengths = np.ascontiguousarray(store.lengths, "<i8")
        return {
            "base": self.settings.base,
            "tokens": cached_sha256_file(store.folder / TOKENS),
            "lengths": hashlib.sha256(lengths.tobytes()).hexdigest(),
            "frozen_blocks": self.prefix.depth,
            "dtype": str(self.dtype),
            "numerics": numerics_fingerprint(),
        }

    def facts(self, progress: Progress) -> dict[str, Any]:
        """Describe it for the metrics."""
        stores = [(tokens, store) for tokens, store in self.stores.items() if store is not None]
        return {
            "frozen_blocks": self.prefix.depth,
            "cache_hit_rate": progress.prefix_hits / max(1, progress.prefix_lookups),
            "cache_bytes": sum(store.num_bytes for _, store in stores),
            "seconds": progress.prefix_seconds,
            "stores": {tokens.folder.name: store.folder.name for tokens, store in stores},
        }


def make_prefix(
    model: nn.Module, settings: PrefixSettings | None, watch: Watch, num_epochs: float
) -> NoPrefix:
    """Leave frozen blocks out of the steps of a model where that gives the same.

    Args:
        model: trainable as it will be trained, its blocks of the class they will have.
        settings: None: run every block in every step.
        watch: is told once which it is.
        num_epochs: of the run.
    """
    if settings is None or not frozen_depth(model):
        return NoPrefix()
    try:
        prefix = find_prefix(model)
        found = CachedPrefix(prefix, settings, *described(prefix))
        text = (
            f"{prefix.depth} of {len(blocks(model))} blocks are frozen: a document goes through "
            f"them once, and what comes out is kept in {settings.folder} (train.prefix_cache_gb)"
        )
        if num_epochs <= 1:
            text += (
                f"; this run has {num_epochs:.2g} epochs, so only other runs gain from that: "
                "train.prefix_cache_gb=0 makes this one faster"
            )
    except ModelError as error:
        found = NoPrefix()
        text = f"every block is run in every step, and no activations are kept: {error}"
    if not watch.reloads:
        watch.note(text)
    return found


def described(prefix: FrozenPrefix) -> tuple[int, mx.Dtype]:
    """Give width and type of what comes out of a prefix; nothing is computed."""
    probe = prefix.record(mx.array([[0]]))
    return probe.shape[-1], probe.dtype
