"""The metrics of a training: all of them, and the few by which people compare runs."""

from typing import Any

from pipeline.config.stage_paths import Paths
from pipeline.files import ROOT, write_json
from pipeline.train.checkpoints.series import split_metrics
from pipeline.train.memory import GB

SHARE = "conflicts_primary_share"
IN_THE_SUMMARY = ("targets_per_second", "tokens_per_second", "wall_seconds", "reloads")
"""Figures that `metrics/machine.json` has, so that `metrics/train_machine.json` leaves them out."""


def write_metrics(paths: Paths, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write the metrics of a training, results and figures of the machine apart.

    By hand `metrics/summary.json` has what the training knows. Under DVC the validate stage writes
    that file, and knows more.

    Args:
        paths: where the stage writes.
        metrics: of the run and of its supervisor.

    Returns:
        The results: the content of `metrics/train.json`.
    """
    results, machine = split_metrics(metrics)
    machine |= paths.meter.facts()
    rest = {name: value for name, value in machine.items() if name not in IN_THE_SUMMARY}
    files = {"train": results, "machine": machine_summary(machine), "train_machine": rest}
    if paths.out.resolve() != ROOT:
        share = {SHARE: results[SHARE]} if SHARE in results else {}
        files["summary"] = training_summary(results) | share
    for name, values in files.items():
        write_json(paths.write(f"metrics/{name}.json"), values)
    return results


def training_summary(results: dict[str, Any]) -> dict[str, float]:
    """Return what each training knows of `metrics/summary.json`.

    Args:
        results: the content of `metrics/train.json`.
    """
    return {
        "validation_loss": results["val_loss"],
        "best_validation_loss": results["best_val_loss"],
        "learning_rate": results["learning_rate"],
    }


def machine_summary(machine: dict[str, Any]) -> dict[str, float]:
    """Return the few figures of the machine by which runs are compared.

    Speed is that of the steps. `peak_gb` is the greatest footprint of all processes of the run
    together. `seconds` is its wall time, with validation and saving, over all of its processes.
    """
    return {
        "targets_per_second": machine["targets_per_second"],
        "peak_gb": machine["peak_footprint_bytes"] / GB,
        "seconds": machine["wall_seconds"],
        "tokens_per_second": machine["tokens_per_second"],
        "reloads": machine["reloads"],
    }
