"""How much a training reads: rows of a step, of a validation, and how many of both there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from pipeline.data.batches import BUCKET_TOKENS
from pipeline.data.held_out import first_documents
from pipeline.data.store import held_out_store
from pipeline.objective.likelihood import ConflictItem
from pipeline.train.feed import Feed, TrainingData
from pipeline.train.plan.request import DocumentFacts
from pipeline.train.plan.timing import NO_ROWS, Rows
from pipeline.train.settings import TrainSettings

SAMPLED_STEPS = 8


@dataclass(frozen=True)
class Held:
    """The held-out documents that the stage validate measures.

    Attributes:
        longest_tokens: of the longest one.
        rows: of all of them.
    """

    longest_tokens: int
    rows: Rows


@dataclass(frozen=True)
class Workload:
    """What a run reads; rows are means.

    Attributes:
        step: rows of a step.
        target_share: of the tokens of a step, those whose loss counts.
        validation: rows of a validation, contests included.
        last: rows that are measured at the end of the run.
        held: of the stage validate.
        items: of the suite that it measures.
        is_known: whether the rows are prepared; else all are taken to be as long as allowed.
    """

    step: Rows
    target_share: float
    validation: Rows
    last: Rows
    held: Held
    items: Rows
    is_known: bool


def num_validations(num_steps: int, steps_per_eval: int) -> int:
    """Count the validations of a run: before the first step, at each interval, and at the end."""
    return 1 + num_steps // steps_per_eval + (num_steps % steps_per_eval > 0)


def prepared_workload(
    data: TrainingData,
    settings: TrainSettings,
    prepared: Path,
    bounds: tuple[int | None, int | None],
) -> Workload:
    """Describe what a run reads of prepared data, by the rows of a few of its steps.

    Args:
        data: of the run.
        settings: of the loop.
        prepared: data/prepared.
        bounds: `validate.documents` and `validate.tokens`.
    """
    feed = Feed(data, settings)
    last = min(settings.num_steps, feed.order.steps_in_epoch(0))
    numbers = np.unique(np.linspace(1, last, SAMPLED_STEPS).astype(int)).tolist()
    batches = [batch for number in numbers for each in feed.micro_batches(number) for batch in each]
    tokens = sum(int(np.count_nonzero(batch.segment_ids)) for batch in batches)
    rows, padded = sum(len(batch.inputs) for batch in batches), sum(b.inputs.size for b in batches)
    store = held_out_store(prepared)
    held = store.lengths[: first_documents(store, *bounds).count]
    contests = [item for item in data.conflicts if item.primary is not None]
    validated = document_rows(data.validation.lengths[: feed.validated.count])
    if settings.best == "conflicts":
        validated = joined(validated, item_rows(feed.contests))
    return Workload(
        step=Rows(rows / len(numbers), padded / rows, tokens / len(numbers)),
        target_share=sum(batch.num_targets for batch in batches) / padded,
        validation=validated,
        last=item_rows(contests),
        held=Held(int(held.max()), document_rows(held)),
        items=item_rows(data.conflicts),
        is_known=True,
    )


def assumed_workload(
    documents: DocumentFacts, settings: TrainSettings, held_tokens: int | None
) -> Workload:
    """Describe what a run would read if all documents were as long as allowed.

    Args:
        documents: the longest one, and how many are validated.
        settings: of the loop.
        held_tokens: of the stage validate; None where they are not bounded.
    """
    longest = documents.longest_tokens
    count = settings.documents_per_step(longest)
    held = max(1, (held_tokens or 0) // longest)
    return Workload(
        step=full_rows(count, longest),
        target_share=1.0,
        validation=full_rows(documents.num_validated, longest),
        last=NO_ROWS,
        held=Held(longest, full_rows(held, longest)),
        items=NO_ROWS,
        is_known=False,
    )


def assumed_validation(settings: TrainSettings, longest: int) -> int:
    """Count the documents of a validation if all were as long as the longest one; 0: unbounded."""
    bounds = [settings.validation_documents]
    if settings.validation_tokens is not None:
        bounds.append(max(2, settings.validation_tokens // longest))
    return min((bound for bound in bounds if bound is not None), default=0)


def full_rows(count: int, longest: int) -> Rows:
    """Describe rows that are all as long as the longest document."""
    return Rows(count, longest - 1, count * (longest - 1))


def document_rows(lengths: Int64[np.ndarray, " documents"]) -> Rows:
    """Describe rows of one document each, rounded up as batches are."""
    widths = -(-(lengths - 1) // BUCKET_TOKENS) * BUCKET_TOKENS
    return Rows(len(lengths), float(np.mean(widths)), float((lengths - 1).sum()))


def item_rows(items: Sequence[ConflictItem]) -> Rows:
    """Describe the rows of items of the suite, one for each option."""
    if not items:
        return NO_ROWS
    lengths = [len(item.prompt_ids) + len(each) for item in items for each in item.option_ids]
    return document_rows(np.array(lengths))


def joined(one: Rows, other: Rows) -> Rows:
    """Describe rows of two kinds by their mean width."""
    count = one.count + other.count
    width = (one.count * one.width + other.count * other.width) / max(1, count)
    return Rows(count, width, one.tokens + other.tokens)
