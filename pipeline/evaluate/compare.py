"""The base and the tuned model compared: perplexity, the conflicts suite, samples of text."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.console import StageProgress
from pipeline.data.batches import resolve_arrangement
from pipeline.data.held_out import FirstDocuments, first_documents
from pipeline.data.store import TokenStore, held_out_store
from pipeline.device import has_fused_attention, nn
from pipeline.evaluate.kept import KeptResults
from pipeline.evaluate.measure import Measured, Work, measured
from pipeline.evaluate.samples import SAMPLES, sample_rows
from pipeline.evaluate.statistics import Estimate, difference_metrics, ratio_estimate
from pipeline.evaluate.suite import item_log, summarize
from pipeline.files import write_text
from pipeline.generate.answers import AnswerGenerator
from pipeline.generate.prompts import Prompt, held_out_prompts
from pipeline.model.network.adapters import load_adapter
from pipeline.model.network.base import open_base
from pipeline.model.network.tree import materialize
from pipeline.objective.likelihood import DocumentLosses, read_items

SUITE = "conflicts.jsonl"
ONE_DOCUMENT = (
    "one document is held out: its losses are reported without intervals, and whether the models "
    "differ is not resolved. More rows, or a greater data.test_fraction, hold out more."
)
FEWER_PROMPTS = "validate.num_samples=%d: only %d different prompts are held out"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured of both models.

    Attributes:
        dtype: `model.dtype`.
        arrangement: `data.arrangement`.
        documents: how many held-out documents to measure at most; None: all.
        num_samples: how many held-out prompts both models answer.
        sample_tokens: the most tokens of an answer.
        sample_prompts: prompts of the user that they answer too.
        tokens: how many the held-out documents may have together; None: any number.
    """

    dtype: str
    arrangement: str
    documents: int | None
    num_samples: int
    sample_tokens: int
    sample_prompts: Sequence[str] = ()
    tokens: int | None = None


def perplexity_metrics(base: DocumentLosses, tuned: DocumentLosses) -> dict[str, Any]:
    """Return loss and perplexity of both models with intervals, and their paired difference.

    Documents are independent of each other, and the tokens of one document are not. So errors are
    clustered by document.
    """
    counts = base.num_targets.astype(np.float64)
    difference = ratio_estimate(tuned.loss_sums - base.loss_sums, counts)
    return {
        "n_documents": len(counts),
        "n_tokens": int(counts.sum()),
        "base": with_perplexity(ratio_estimate(base.loss_sums, counts)),
        "tuned": with_perplexity(ratio_estimate(tuned.loss_sums, counts)),
        **difference_metrics("loss_difference", difference),
    }


def with_perplexity(loss: Estimate) -> dict[str, float | None]:
    """Return a loss in nats per target and its perplexity, both with intervals."""
    low, high = (None if end is None else math.exp(end) for end in (loss.low, loss.high))
    return {
        "loss": loss.value,
        "loss_standard_error": loss.standard_error,
        "perplexity": math.exp(loss.value),
        "perplexity_low": low,
        "perplexity_high": high,
    }


def write_losses(base: DocumentLosses, tuned: DocumentLosses, folder: Path) -> None:
    """Write the loss of each document under both models."""
    order = np.argsort(base.documents)
    rows = [
        {
            "document": int(base.documents[index]),
            "num_targets": int(base.num_targets[index]),
            "base_loss_sum": float(base.loss_sums[index]),
            "tuned_loss_sum": float(tuned.loss_sums[index]),
        }
        for index in order
    ]
    write_rows(folder / "documents.jsonl", rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a JSONL file."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def evaluate(
    base: Path,
    trained: Path,
    prepared: Path,
    folder: Path,
    settings: EvaluationSettings,
    kept: KeptResults,
) -> dict[str, Any]:
    """Compare the base and the tuned model on held-out text, on the suite and by samples.

    One model is in memory at a time.

    Args:
        base: models/base.
        trained: models/trained.
        prepared: data/prepared.
        folder: where files with a row per document, item and sample are written.
        settings: what to measure.
        kept: results that a killed run has left, and those of this one.

    Returns:
        The metrics of the validate stage.
    """
    work, adapters = work_of(base, prepared, settings), {"base": None, "tuned": trained}
    found: dict[str, Measured] = {}
    with StageProgress("validate", len(adapters) * work.size) as progress:
        if note := documents_of(work.store, settings).note:
            progress.note(f"validate: {note}")
        for name, adapter in adapters.items():
            load = partial(load_model, base, settings.dtype, adapter)
            found[name] = measured(name, load, work, kept, progress)
    return write_results(work, found["base"], found["tuned"], folder)


def load_model(base: Path, dtype: str, trained: Path | None) -> nn.Module:
    """Load the base and, unless it is None, what was trained on it, in memory at once."""
    model = open_base(base, dtype).model
    if trained is not None:
        load_adapter(model, trained)
    materialize(model)
    return model


def write_results(work: Work, base: Measured, tuned: Measured, folder: Path) -> dict[str, Any]:
    """Write a row per document, item and sample; return the metrics."""
    write_losses(base.losses, tuned.losses, folder)
    perplexity = perplexity_metrics(base.losses, tuned.losses)
    if perplexity["n_documents"] == 1:
        log.warning(ONE_DOCUMENT)
    share = perplexity["n_documents"] / len(work.store)
    held_out = {"split": work.store.folder.name, "document_share": share, **perplexity}
    metrics: dict[str, Any] = {"held_out": held_out}
    if base.scores is not None and tuned.scores is not None:
        rows = item_log(work.items, base.scores, tuned.scores)
        write_rows(folder / "conflicts.jsonl", rows)
        metrics["conflicts"] = summarize(work.items, base.scores, tuned.scores)
    samples = sample_rows(work.answers, work.prompts, base=base.samples, tuned=tuned.samples)
    write_rows(folder / SAMPLES, samples)
    return metrics


def work_of(base: Path, prepared: Path, settings: EvaluationSettings) -> Work:
    """Gather what the models of a stage are measured on.

    Args:
        base: models/base, for its tokenizer.
        prepared: data/prepared.
        settings: what to measure.

    Raises:
        ConfigError: when a prompt of the user cannot be asked.
    """
    store, suite = held_out_store(prepared), prepared / SUITE
    answers = AnswerGenerator(base, settings.sample_tokens)
    return Work(
        store=store,
        arrangement=resolve_arrangement(settings.arrangement, has_fused_attention()),
        documents=documents_of(store, settings).count,
        items=read_items(suite) if suite.exists() else (),
        answers=answers,
        prompts=prompts_of(store, answers, settings),
    )


def prompts_of(
    store: TokenStore, answers: AnswerGenerator, settings: EvaluationSettings
) -> list[Prompt]:
    """Return what both models are asked: held-out prompts, then those of the user."""
    given = enumerate(settings.sample_prompts)
    texts = {f"validate.sample_prompts[{number}]": text for number, text in given}
    own = [Prompt(ids, []) for ids in answers.prompts(texts)]
    found = held_out_prompts(store, settings.num_samples, answers.has_room)
    if len(found) < settings.num_samples:
        log.warning(FEWER_PROMPTS, settings.num_samples, len(found))
    return [*found, *own]


def documents_of(store: TokenStore, settings: EvaluationSettings) -> FirstDocuments:
    """Choose the held-out documents that are measured."""
    keys = "validate.documents", "validate.tokens"
    return first_documents(store, settings.documents, settings.tokens, *keys)
