"""The frozen prefix in a run: each document goes through it once, for all epochs and all runs.

What decides bits. The activations of a document are computed from its tokens alone, in a row of one
document without padding. So they are a function of the document: step, run and interruptions make
no difference, nor does it matter whether they were stored. What does not fit into the budget is
computed in the same way each time. Activations are computed when first asked for. A pass before
step 1 would cost as much as it saves in the first epoch, and a run shorter than an epoch would
compute some that it never uses. Rows of one document lose little on a CPU: there is no padding, and
a few documents are computed side by side.

Where it lies. In `models/prefix` of the repository, for runs by hand and under DVC alike. The name
of a store is the hash of what its bits depend on. It is not an out of a DVC stage: DVC would hash
gigabytes at each `dvc status`, and a run by hand that adds a document would make the stage run
again, though no result depends on how full the store is. DVC tracks `prefix` in
`metrics/train_machine.json`, which names the stores that a run used, and its hit rate.
"""

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt

from pipeline.data.batches import Batch
from pipeline.data.store import TOKENS, TokenStore
from pipeline.device import mx, nn, num_cpu_streams, numerics_fingerprint
from pipeline.errors import ModelError
from pipeline.files import cached_sha256_file
from pipeline.model.network.tree import blocks
from pipeline.model.prefix import FrozenPrefix, find_prefix, frozen_depth
from pipeline.train.checkpoints.state import Progress
from pipeline.train.cpu_streams import CpuStreams
from pipeline.train.observer import Observer
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
        base: identifies the weights and their type.
    """

    folder: Path
    budget_bytes: int
    base: dict[str, str]


@runtime_checkable
class Replay(Protocol):
    """Puts activations of a store's documents in place of frozen blocks, or nothing."""

    def of(self, batch: Batch) -> AbstractContextManager[None]:
        """Start the model from the activations of a batch until the end of the `with`."""
        ...


class NoPrefix:
    """Every block is run in every step."""

    def for_store(self, store: TokenStore) -> Replay:
        """Return what documents of a store need: nothing."""
        del store
        return self

    def of(self, batch: Batch) -> AbstractContextManager[None]:
        """Change nothing."""
        del batch
        return nullcontext()

    def facts(self) -> dict[str, Any]:
        """Describe it for the metrics."""
        facts = {"frozen_blocks": 0, "cache_hit_rate": None, "cache_bytes": 0, "seconds": 0.0}
        return {**facts, "stores": {}}


@dataclass
class CachedPrefix:
    """Runs the frozen blocks only for documents that are not stored.

    Attributes:
        prefix: of the model that is trained.
        settings: where activations are kept.
        progress: counts the documents that are asked for, and the hits.
        width: numbers of an activation.
        dtype: of these numbers.
    """

    prefix: FrozenPrefix
    settings: PrefixSettings
    progress: Progress
    width: int
    dtype: mx.Dtype
    stores: dict[TokenStore, ActivationStore | None] = field(default_factory=dict)
    streams: CpuStreams = field(default_factory=CpuStreams)

    def for_store(self, store: TokenStore) -> Replay:
        """Return what puts activations of the documents of a store in place."""
        return StoreReplay(self, store)

    def gather(self, store: TokenStore, batch: Batch) -> Float[mx.array, "rows seq_len width"]:
        """Lay out activations as the tokens of a batch lie; padding is 0."""
        started, shape = time.monotonic(), (*batch.inputs.shape, self.width)
        bits = np.zeros(shape, f"<u{self.dtype.size}")
        documents = batch.documents.tolist()
        found = self.activations(store, list(dict.fromkeys(documents)))
        for index, document in enumerate(documents):
            bits[batch.segment_ids == index + 1] = found[document]
        hidden = mx.array(bits).view(self.dtype)
        mx.eval(hidden)  # another thread uses it, on another stream
        self.progress.prefix_seconds += time.monotonic() - started
        return hidden

    def activations(
        self, store: TokenStore, documents: list[int]
    ) -> dict[int, UInt[np.ndarray, "positions width"]]:
        """Read the activations of different documents, or compute and store them."""
        stored = self.opened(store)
        read = {} if stored is None else {each: stored.read(each) for each in documents}
        found = {document: values for document, values in read.items() if values is not None}
        self.progress.prefix_lookups += len(documents)
        self.progress.prefix_hits += len(found)
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
        for start in range(0, len(documents), num_cpu_streams()):
            outputs = self.outputs(store, documents[start : start + num_cpu_streams()])
            yield from (np.array(output[0].view(UNSIGNED[self.dtype.size])) for output in outputs)

    def outputs(self, store: TokenStore, documents: list[int]) -> list[mx.array]:
        """Compute what the frozen blocks make of a few documents, and evaluate it."""
        inputs = [mx.array(store.tokens(document)[None, :-1]) for document in documents]
        if num_cpu_streams() == 1:
            return [self.prefix.record(each) for each in inputs]
        # The weights, which all graphs refer to, have been evaluated by `find_prefix`.
        outputs = list[mx.array]()
        for index, each in enumerate(inputs):
            with mx.stream(self.streams.stream(index)):
                outputs.append(self.prefix.record(each))
        self.streams.side_by_side(mx.eval, outputs)
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

    def facts(self) -> dict[str, Any]:
        """Describe it for the metrics."""
        progress = self.progress
        stores = [(tokens, store) for tokens, store in self.stores.items() if store is not None]
        return {
            "frozen_blocks": self.prefix.depth,
            "cache_hit_rate": progress.prefix_hits / max(1, progress.prefix_lookups),
            "cache_bytes": sum(store.num_bytes for _, store in stores),
            "seconds": progress.prefix_seconds,
            "stores": {tokens.folder.name: store.folder.name for tokens, store in stores},
        }


@dataclass
class StoreReplay:
    """Puts activations of the documents of one store in place of frozen blocks."""

    cached: CachedPrefix
    store: TokenStore

    @contextmanager
    def of(self, batch: Batch) -> Iterator[None]:
        """Start the model from the activations of a batch until the end of the `with`."""
        with self.cached.prefix.replay(self.cached.gather(self.store, batch)):
            yield


def make_prefix(
    model: nn.Module,
    settings: PrefixSettings | None,
    progress: Progress,
    observer: Observer,
    num_epochs: float,
) -> NoPrefix | CachedPrefix:
    """Leave frozen blocks out of the steps of a model where that gives the same result.

    Args:
        model: trainable as it will be trained, its blocks of the class they will have.
        settings: None: run every block in every step.
        progress: counts the documents that are asked for, and the hits.
        observer: shows once what is done, and why.
        num_epochs: of the run.
    """
    if settings is None or not frozen_depth(model):
        return NoPrefix()
    try:
        prefix = find_prefix(model)
        found = CachedPrefix(prefix, settings, progress, *described(prefix))
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
    if not observer.reloads:
        observer.note(text)
    return found


def described(prefix: FrozenPrefix) -> tuple[int, mx.Dtype]:
    """Return width and type of what comes out of a prefix; nothing is computed."""
    probe = prefix.record(mx.array([[0]]))
    return probe.shape[-1], probe.dtype
