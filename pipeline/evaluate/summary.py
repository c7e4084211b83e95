"""The results by which people compare runs: the content of `metrics/summary.json`."""

from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.external.json_files import Remedy, read_own
from pipeline.external.shapes import NUMBER
from pipeline.train.summary import training_summary

RESULTS_SHAPE = dict.fromkeys(("val_loss", "best_val_loss", "learning_rate"), NUMBER)
RETRAIN = Remedy(PipelineError, "Train again: `dvc repro --force train`.")
SUITES = {"conflicts": "contest"}
"""The suites whose difference between base and tuned is compared, and the kind of its items."""


def read_results(path: Path) -> dict[str, Any]:
    """Read what a training has written to `metrics/train.json`.

    Raises:
        PipelineError: when it lacks what the summary needs.
    """
    return read_own(path, RESULTS_SHAPE, RETRAIN)


def summary(training: dict[str, Any], metrics: dict[str, Any]) -> dict[str, float]:
    """Return the few results of a run: of its training, and of both models on held-out rows.

    Losses are in nats per target. The difference of a suite is that of two shares.

    Args:
        training: the content of `metrics/train.json`.
        metrics: the content of `metrics/validate.json`.
    """
    base, tuned = metrics["held_out"]["base"], metrics["held_out"]["tuned"]
    return {
        **training_summary(training),
        "base_loss": base["loss"],
        "tuned_loss": tuned["loss"],
        "tuned_perplexity": tuned["perplexity"],
        **{
            f"{suite}_difference": metrics[suite][kind]["difference"]
            for suite, kind in SUITES.items()
            if suite in metrics
        },
    }
