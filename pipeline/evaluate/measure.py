"""What one model is measured on, in parts, each of which is kept when it is done."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.console import StageProgress
from pipeline.data.batches import Arrangement, Batch, RowLayout, evaluation_batches
from pipeline.data.store import TokenStore
from pipeline.device import nn
from pipeline.evaluate.kept import KeptResults
from pipeline.generate.answers import AnswerGenerator
from pipeline.generate.prompts import Prompt
from pipeline.objective.likelihood import (
    MOST_ROWS,
    ConflictItem,
    DocumentLosses,
    Scores,
    document_losses,
    score_items,
)
from pipeline.train.settings import evaluation_batch_tokens


@dataclass(frozen=True)
class Work:
    """What each of two models is measured on.

    Attributes:
        store: held-out documents.
        arrangement: how they lie in batches.
        documents: how many of them to measure at most; None: all.
        items: of the conflicts suite; none where there is no suite.
        answers: generates the samples.
        prompts: that both models answer.
    """

    store: TokenStore
    arrangement: Arrangement
    documents: int | None
    items: Sequence[ConflictItem]
    answers: AnswerGenerator
    prompts: Sequence[Prompt]

    @property
    def size(self) -> int:
        """Count documents, items and prompts."""
        documents = len(self.store) if self.documents is None else self.documents
        return min(documents, len(self.store)) + len(self.items) + len(self.prompts)


@dataclass(frozen=True)
class Measured:
    """The results of one model.

    Attributes:
        losses: of the documents.
        scores: of the items; None where there are none.
        samples: text and finish reason of each answer.
    """

    losses: DocumentLosses
    scores: Scores | None
    samples: list[dict[str, str]]


@dataclass(frozen=True)
class Part:
    """A part of the work, so small that little is lost when it is interrupted.

    Attributes:
        kind: `documents`, `items` or `samples`.
        size: how many of these it has.
        measure: computes what JSON can hold.
    """

    kind: str
    size: int
    measure: Callable[[nn.Module], Any]


def held_out_batches(
    store: TokenStore, limit: int | None, arrangement: Arrangement
) -> Iterator[Batch]:
    """Arrange held-out documents in batches: the first `limit`, or all."""
    layout = RowLayout(arrangement, int(store.lengths.max()))
    chosen = np.arange(len(store))[:limit]
    return evaluation_batches(store, chosen, layout, evaluation_batch_tokens(store.vocab_size))


def parts_of(work: Work) -> Iterator[Part]:
    """Divide the work, always in the same way."""
    for batch in held_out_batches(work.store, work.documents, work.arrangement):
        yield Part("documents", len(batch.documents), partial(losses_in, batch))
    step = items_at_once(work.items, evaluation_batch_tokens(work.store.vocab_size))
    for start in range(0, len(work.items), step):
        items = work.items[start : start + step]
        yield Part("items", len(items), partial(scores_of, items))
    for prompt in work.prompts:
        yield Part("samples", 1, partial(answer_to, work.answers, prompt))


def items_at_once(items: Sequence[ConflictItem], most_tokens: int) -> int:
    """Count the items whose options fill a batch, if all were as long as the longest one."""
    lengths = [len(item.prompt_ids) + max(map(len, item.option_ids)) for item in items]
    rows = min(MOST_ROWS, most_tokens // max(lengths, default=1))
    return max(1, rows // max((len(item.option_ids) for item in items), default=1))


def losses_in(batch: Batch, model: nn.Module) -> dict[str, list[Any]]:
    """Measure the documents of a batch."""
    losses = dataclasses.asdict(document_losses(model, [batch]))
    return {name: values.tolist() for name, values in losses.items()}


def scores_of(items: Sequence[ConflictItem], model: nn.Module) -> list[list[float]]:
    """Score the options of items."""
    return score_items(model, items).values.tolist()


def answer_to(answers: AnswerGenerator, prompt: Prompt, model: nn.Module) -> dict[str, str]:
    """Answer a prompt greedily."""
    answer = answers.answer(model, prompt.ids)
    return {"text": answer.text, "finish_reason": answer.finish_reason}


def measured(
    name: str,
    load: Callable[[], nn.Module],
    work: Work,
    kept: KeptResults,
    progress: StageProgress,
) -> Measured:
    """Measure a model on all parts of the work that are not kept yet.

    Args:
        name: of the model, `base` or `tuned`.
        load: loads it, if anything is left to be measured.
        work: what to measure.
        kept: takes and returns the results.
        progress: shows how much of both models' work is done.
    """
    model, found = None, {kind: list[Any]() for kind in ("documents", "items", "samples")}
    for part in parts_of(work):
        values = found[part.kind]
        key = f"{name}/{part.kind}/{len(values)}"
        if key not in kept.found:
            model = load() if model is None else model
            kept.add(key, part.measure(model))
        values.append(kept.found[key])
        progress.show(progress.done + part.size, name)
    return Measured(
        joined_losses(found["documents"]),
        Scores(np.array([row for rows in found["items"] for row in rows])) if work.items else None,
        found["samples"],
    )


def joined_losses(parts: Sequence[dict[str, list[Any]]]) -> DocumentLosses:
    """Join the losses of batches."""
    types = {"documents": np.int64, "loss_sums": np.float64, "num_targets": np.int64}
    return DocumentLosses(
        **{
            name: np.array([value for part in parts for value in part[name]], dtype)
            for name, dtype in types.items()
        }
    )
