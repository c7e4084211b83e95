"""Figures of runs as people read them: which come first, which is better, how they are written."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

from pipeline.config.keys import flat
from pipeline.external.json_files import Remedy, read_own

Figures = dict[str, Any]
"""Metrics by dotted names."""
COMPARED = ("summary", "machine")
"""The files of `metrics/` with the few figures by which runs are compared."""
GREATEST_IS_BEST = {
    "conflicts_primary_share": True,
    "conflicts_difference": True,
    "tuned_loss": False,
    "validation_loss": False,
}
"""The figures by which one run is better than another; the first that runs have counts first."""
DIGITS = 4
WITHOUT_DECIMALS = 1000
"""From here on four digits leave no room for decimals."""


def read_metrics(run: Path, remedy: Remedy) -> dict[str, Figures]:
    """Read the files in `metrics/` of a run, those first by which runs are compared.

    Args:
        run: its folder.
        remedy: what to do about a damaged file.

    Returns:
        The figures of each file, by its name without `.json`.

    Raises:
        PipelineError: when a file is damaged.
    """
    files = sorted(run.glob("metrics/*.json"), key=importance)
    return {file.stem: dict(flat(read_own(file, {}, remedy))) for file in files}


def importance(file: Path) -> tuple[int, str]:
    """Return what files of metrics are ordered by: those of results come before those of machines.

    The first are those by which runs are compared.
    """
    if file.stem in COMPARED:
        return COMPARED.index(file.stem), file.stem
    return len(COMPARED) + file.stem.endswith("_machine"), file.stem


def compared(metrics: dict[str, Figures]) -> Figures:
    """Pick the figures by which runs are compared from the files of a run."""
    return merged({name: metrics.get(name, {}) for name in COMPARED})


def merged(metrics: dict[str, Figures]) -> Figures:
    """Gather the figures of all files of a run, in the order of the files."""
    return {name: value for figures in metrics.values() for name, value in figures.items()}


def order_of(figures: Figures) -> tuple[float, ...]:
    """Return what runs are ordered by, the best first; a run without a figure comes last."""
    values = [(figures.get(name), greatest) for name, greatest in GREATEST_IS_BEST.items()]
    return tuple(
        math.inf if value is None else -value if greatest else value for value, greatest in values
    )


def decisive(runs: Iterable[Figures]) -> str | None:
    """Name the figure that decides which of some runs is the best; None where they have none."""
    names = {name for run in runs for name in run}
    return next((name for name in GREATEST_IS_BEST if name in names), None)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a figure, and no text or truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def written(value: Any) -> str:  # noqa: ANN401
    """Write a number with four digits, a count with all of its digits, and all else as it is."""
    if not is_number(value) or not math.isfinite(value):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) < WITHOUT_DECIMALS:
        return f"{value:.{DIGITS}g}"
    decimals = DIGITS - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.0f}"
