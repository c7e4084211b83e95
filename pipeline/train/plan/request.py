"""What is to be planned, and how it follows from the settings of a training."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.batches import (
    Arrangement,
    RowLayout,
    resolve_arrangement,
    share_ends,
    streams_for,
)
from pipeline.device import has_fused_attention, num_cpu_streams
from pipeline.model.network.adapters import AdapterSettings
from pipeline.optim.optimizer import OptimSettings
from pipeline.train.feed import TrainingData, validated_documents
from pipeline.train.settings import EVALUATION_LOGITS, TrainSettings


@dataclass(frozen=True)
class PlanRequest:
    """What is to be trained, and how.

    Attributes:
        folder: holds config.json; no weights are needed.
        dtype: `model.dtype`.
        adapter: `train.mode`, the `lora` section, and `train.tensors`.
        optim: settings of the optimizer.
        batch_size: documents of one optimizer step.
        grad_accumulation_steps: micro-batches they are split into.
        longest_tokens: of the longest document; every row is taken to be as wide.
        arrangement: how documents lie in rows.
        grad_checkpoint: whether blocks are recomputed in the backward pass.
        label_smoothing: share of each target that is spread over the vocabulary.
        validation_batch_tokens: tokens of one batch of the validation; None: there is none.
        least_validation_tokens: tokens of such a batch however small the micro-batches are.
        cached_prefix: whether frozen blocks are left out of the steps.
        scores_conflicts: whether batches as large as those of the validation go through all blocks.
        num_streams: batches of a micro-batch, which run at the same time.
        base_bits: plan as if the base were quantised to so many bits; None: as config.json says.
        fused_attention: plan as if attention never held its scores.
    """

    folder: Path
    dtype: str
    adapter: AdapterSettings
    optim: OptimSettings
    batch_size: int
    grad_accumulation_steps: int
    longest_tokens: int
    arrangement: Arrangement
    grad_checkpoint: bool
    label_smoothing: float = 0.0
    validation_batch_tokens: int | None = None
    least_validation_tokens: int = 0
    cached_prefix: bool = False
    scores_conflicts: bool = False
    num_streams: int = 1
    base_bits: int | None = None
    fused_attention: bool = False

    @property
    def num_micro_batches(self) -> int:
        """Count the micro-batches of a step; each has at least one document."""
        return min(self.grad_accumulation_steps, self.batch_size)

    @property
    def rows(self) -> int:
        """Count the rows of the largest micro-batch."""
        return -(-self.batch_size // self.num_micro_batches)

    @property
    def stream_rows(self) -> list[int]:
        """Count the rows of each batch of the largest micro-batch."""
        ends = share_ends(self.rows, streams_for(self.rows, self.num_streams))
        return [end - start for start, end in itertools.pairwise(ends)]

    @property
    def width(self) -> int:
        """Count the tokens of a row, padding included."""
        lengths = np.array([self.longest_tokens])
        return RowLayout(self.arrangement, self.longest_tokens).row_width(lengths, [[0]])

    @property
    def tokens(self) -> int:
        """Count the tokens of the largest micro-batch, padding included."""
        return self.rows * self.width


@dataclass(frozen=True)
class DocumentFacts:
    """What the memory of a training depends on, of the documents that it reads.

    Attributes:
        longest_tokens: of the longest document.
        vocab_size: of the tokens.
        num_validated: documents of a validation.
        cached_prefix: whether outputs of frozen blocks are kept.
        has_contests: whether there is a suite of contests.
    """

    longest_tokens: int
    vocab_size: int
    num_validated: int
    cached_prefix: bool
    has_contests: bool


def document_facts(data: TrainingData, settings: TrainSettings) -> DocumentFacts:
    """Gather the facts of prepared data."""
    return DocumentFacts(
        data.longest_tokens,
        data.train.vocab_size,
        validated_documents(data.validation, settings).count,
        data.activations is not None,
        bool(data.conflicts),
    )


def plan_request(
    folder: Path,
    dtype: str,
    adapter: AdapterSettings,
    settings: TrainSettings,
    optim: OptimSettings,
    documents: DocumentFacts,
) -> PlanRequest:
    """Describe the training of these settings for the planner.

    Args:
        folder: holds config.json.
        dtype: `model.dtype`.
        adapter: what is trained.
        settings: of the loop.
        optim: settings of the optimizer.
        documents: that are read.
    """
    longest, vocab_size = documents.longest_tokens, documents.vocab_size
    batch_tokens = settings.evaluation_tokens(longest, vocab_size)
    return PlanRequest(
        folder=folder,
        dtype=dtype,
        adapter=adapter,
        optim=optim,
        batch_size=settings.documents_per_step(longest),
        grad_accumulation_steps=settings.grad_accumulation_steps,
        longest_tokens=longest,
        arrangement=resolve_arrangement(settings.arrangement, has_fused_attention()),
        grad_checkpoint=settings.grad_checkpoint,
        label_smoothing=settings.label_smoothing,
        validation_batch_tokens=min(batch_tokens, documents.num_validated * longest),
        least_validation_tokens=EVALUATION_LOGITS // vocab_size,
        cached_prefix=documents.cached_prefix,
        scores_conflicts=documents.has_contests,
        num_streams=num_cpu_streams(),
    )
