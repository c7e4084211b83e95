"""The data of a run: the micro-batches of each step, and the batches of a validation."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.data.batches import (
    Arrangement,
    Batch,
    MicroBatch,
    RowLayout,
    arrange,
    evaluation_batches,
    resolve_arrangement,
)
from pipeline.data.held_out import FirstDocuments, first_documents
from pipeline.data.order import BatchOrder
from pipeline.data.store import TokenStore
from pipeline.device import has_fused_attention, num_cpu_streams
from pipeline.objective.distrust import NOTHING, Distrust
from pipeline.objective.likelihood import MOST_ROWS, ConflictItem
from pipeline.train.prefix.replay import PrefixSettings
from pipeline.train.settings import TrainSettings


@dataclass(frozen=True)
class TrainingData:
    """What a run reads.

    Attributes:
        train: what is trained on.
        validation: the fixed set, whose first documents are validated on.
        distrust: what provenance does to each document of `train`.
        conflicts: items of the conflicts suite; none where there is no suite.
        activations: where outputs of frozen blocks are kept; None: they are not.
    """

    train: TokenStore
    validation: TokenStore
    distrust: Distrust = NOTHING
    conflicts: Sequence[ConflictItem] = ()
    activations: PrefixSettings | None = None

    @property
    def longest_tokens(self) -> int:
        """Tokens of the longest document."""
        return int(max(self.train.lengths.max(), self.validation.lengths.max()))


@dataclass
class Feed:
    """Makes batches, each a pure function of the settings, the seed and the step.

    Args:
        data: of the run.
        settings: the loop's parameters.

    Attributes:
        arrangement: how documents lie in rows.
        width: tokens of the longest document.
        order: which documents make up each step.
    """

    data: TrainingData
    settings: TrainSettings
    arrangement: Arrangement = field(init=False)
    width: int = field(init=False)
    order: BatchOrder = field(init=False)

    def __post_init__(self) -> None:
        """Choose the arrangement and the order."""
        settings, data = self.settings, self.data
        self.arrangement = resolve_arrangement(settings.arrangement, has_fused_attention())
        self.width = data.longest_tokens
        self.order = BatchOrder(
            data.train.lengths,
            batch_size=settings.batch_size,
            batch_tokens=settings.batch_tokens,
            seed=settings.seed,
            probabilities=data.distrust.probabilities,
        )

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """Arrange the documents of a step; the first step is 1."""
        documents = self.order.documents(1 if self.settings.overfit_one_batch else step)
        return arrange(
            self.data.train,
            documents,
            RowLayout(self.arrangement, self.width),
            num_micro_batches=min(self.settings.grad_accumulation_steps, len(documents)),
            num_streams=num_cpu_streams(),
            weights=self.data.distrust.weights,
        )

    def validation_batches(self) -> Iterator[Batch]:
        """Arrange what is validated on; the same every time."""
        return evaluation_batches(
            self.data.validation,
            self.validated.indices,
            RowLayout(self.arrangement, self.width),
            batch_tokens=self.evaluation_tokens,
        )

    @property
    def validated(self) -> FirstDocuments:
        """The documents that are validated on."""
        return validated_documents(self.data.validation, self.settings)

    @property
    def contests(self) -> list[ConflictItem]:
        """The first contests of the conflicts suite, as many as documents that are validated."""
        contests = (item for item in self.data.conflicts if item.primary is not None)
        return list(itertools.islice(contests, self.settings.validation_documents))

    @property
    def evaluation_tokens(self) -> int:
        """Tokens of one batch of a validation."""
        return self.settings.evaluation_tokens(self.width, self.data.train.vocab_size)

    @property
    def conflict_rows(self) -> int:
        """How many options of the conflicts suite one batch of a validation holds."""
        longest = max(
            len(item.prompt_ids) + max(map(len, item.option_ids)) for item in self.data.conflicts
        )
        return max(1, min(MOST_ROWS, self.evaluation_tokens // longest))


def validated_documents(validation: TokenStore, settings: TrainSettings) -> FirstDocuments:
    """Choose the documents that are validated on."""
    return first_documents(
        validation,
        settings.validation_documents,
        settings.validation_tokens,
        "train.validation_documents",
        "train.validation_tokens",
    )
