"""The base and the tuned model compared: perplexity, the conflicts suite, samples of text."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.batches import Arrangement, RowLayout, evaluation_batches, resolve_arrangement
from pipeline.data.store import TokenStore, held_out_store
from pipeline.device import has_fused_attention, nn
from pipeline.evaluate.statistics import Estimate, difference_metrics, ratio_estimate
from pipeline.evaluate.suite import item_log, summarize
from pipeline.files import write_text
from pipeline.generate import generate_greedy
from pipeline.model.adapters import load_adapter
from pipeline.model.base import load_base
from pipeline.model.upstream import TokenizerWrapper, load_tokenizer
from pipeline.objective.likelihood import (
    DocumentLosses,
    document_losses,
    read_items,
    score_items,
)

BATCH_TOKENS = 8192
SAMPLE_PROMPT_TOKENS = 16


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured of both models.

    Attributes:
        dtype: `model.dtype`.
        arrangement: `data.arrangement`.
        documents: how many held-out documents to measure at most; None: all.
        num_samples: how many continuations to write.
        sample_tokens: the most tokens of a continuation.
    """

    dtype: str
    arrangement: str
    documents: int | None
    num_samples: int
    sample_tokens: int


Models = Mapping[str, nn.Module]
"""The two models that are compared, `base` and `tuned`."""


def held_out_losses(
    model: nn.Module, store: TokenStore, limit: int | None, arrangement: Arrangement
) -> DocumentLosses:
    """Measure a model on held-out documents: the first `limit`, or all."""
    layout = RowLayout(arrangement, int(store.lengths.max()))
    chosen = np.arange(len(store))[:limit]
    batches = evaluation_batches(store, chosen, layout, batch_tokens=BATCH_TOKENS)
    return document_losses(model, batches)


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


def with_perplexity(loss: Estimate) -> dict[str, float]:
    """Return a loss in nats per target and its perplexity, both with intervals."""
    return {
        "loss": loss.value,
        "loss_standard_error": loss.standard_error,
        "perplexity": math.exp(loss.value),
        "perplexity_low": math.exp(loss.low),
        "perplexity_high": math.exp(loss.high),
    }


def suite_metrics(models: Models, suite: Path, folder: Path) -> dict[str, Any]:
    """Run the conflicts suite on both models, and write a row per item."""
    items = read_items(suite)
    base, tuned = (score_items(models[name], items) for name in ("base", "tuned"))
    write_rows(folder / "conflicts.jsonl", item_log(items, base, tuned))
    return summarize(items, base, tuned)


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


def write_samples(
    models: Models,
    tokenizer: TokenizerWrapper,
    store: TokenStore,
    folder: Path,
    settings: EvaluationSettings,
) -> None:
    """Write greedy continuations by both models: of the start token, then of held-out rows."""
    prompts = [start_prompt(tokenizer)]
    for index in range(min(settings.num_samples - 1, len(store))):
        tokens = store.tokens(index)
        prompts.append(tokens[: min(SAMPLE_PROMPT_TOKENS, len(tokens) // 2)].tolist())
    rows = []
    for prompt in prompts:
        row: dict[str, Any] = {"prompt": tokenizer.decode(prompt, skip_special_tokens=True)}
        for name, model in models.items():
            generation = generate_greedy(model, tokenizer, prompt, settings.sample_tokens)
            row[name] = generation.text
            row[f"{name}_finish_reason"] = generation.finish_reason
        rows.append(row)
    write_rows(folder / "samples.jsonl", rows)


def start_prompt(tokenizer: TokenizerWrapper) -> list[int]:
    """Return the token that starts a text; where the tokenizer has none, that which ends one."""
    start = tokenizer.bos_token_id
    return [tokenizer.eos_token_id if start is None else start]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a JSONL file."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def evaluate(
    base: Path, trained: Path, prepared: Path, folder: Path, settings: EvaluationSettings
) -> dict[str, Any]:
    """Compare the base and the tuned model on held-out text, on the suite and by samples.

    Args:
        base: models/base.
        trained: models/trained.
        prepared: data/prepared.
        folder: where files with a row per document, item and sample are written.
        settings: what to measure.

    Returns:
        The metrics of the validate stage.
    """
    tuned = load_base(base, settings.dtype).model
    load_adapter(tuned, trained)
    models = {"base": load_base(base, settings.dtype).model, "tuned": tuned}
    store = held_out_store(prepared)
    arrangement = resolve_arrangement(settings.arrangement, has_fused_attention())
    losses = {
        name: held_out_losses(model, store, settings.documents, arrangement)
        for name, model in models.items()
    }
    write_losses(**losses, folder=folder)
    held_out = {"split": store.folder.name, **perplexity_metrics(**losses)}
    metrics: dict[str, Any] = {"held_out": held_out}
    suite = prepared / "conflicts.jsonl"
    if suite.exists():
        metrics["conflicts"] = suite_metrics(models, suite, folder)
    write_samples(models, load_tokenizer(base), store, folder, settings)
    return metrics
