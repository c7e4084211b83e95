"""The outputs of the benchmark: metrics, a table of figures, and a picture of bars."""

import csv
import io
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.benchmark.peers.programs import OURS
from pipeline.benchmark.peers.results import COLUMNS
from pipeline.config.stage_paths import Paths
from pipeline.files import write_json, write_text

Row = tuple[str, str, str, int, float]
OUR_COLOUR, OTHER_COLOUR = "#0b6e99", "#8a8f98"
PANELS = {
    "tokens_per_second": "tokens per second",
    "targets_per_second": "targets per second",
    "seconds_to_loss": "seconds to the same validation loss",
    "peak_bytes": "peak memory in bytes",
}
"""The figures that are drawn, and the labels of their axes."""


def write_outputs(paths: Paths, metrics: dict[str, Any], rows: list[Row]) -> None:
    """Write metrics/benchmark.json, plots/peers.csv and plots/peers.png."""
    write_json(paths.write("metrics/benchmark.json"), metrics)
    write_table(paths.write("plots/peers.csv"), rows)
    with paths.file("plots/peers.png") as picture:
        draw(picture, rows)


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write a CSV file with a row for each figure of each round."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def draw(path: Path, rows: list[Row]) -> None:
    """Draw medians as bars, with whiskers from the smallest to the largest value.

    Args:
        path: the PNG to write; equal input gives equal bytes.
        rows: as `write_table` writes them.
    """
    found = {name: bars_of(rows, name) for name in PANELS}
    found = {name: bars for name, bars in found.items() if bars} or {"tokens_per_second": {}}
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        height = 0.9 + 0.28 * max(map(len, found.values()))
        figure = Figure(figsize=(4.2 * len(found), height), dpi=110, layout="constrained")
        for axes, (name, bars) in zip(
            figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
        ):
            draw_bars(axes, bars, PANELS[name])
        figure.savefig(path, metadata={"Software": None})


def bars_of(rows: list[Row], figure: str) -> dict[str, list[float]]:
    """Return the values of a figure in all rounds, by part and program."""
    bars: dict[str, list[float]] = {}
    for part, name, program, _, value in rows:
        if name == figure:
            bars.setdefault(f"{part}: {program}", []).append(value)
    return bars


def draw_bars(axes: Axes, bars: dict[str, list[float]], label: str) -> None:
    """Draw the bars of one figure, those of Tidewheel in colour."""
    for position, (name, values) in enumerate(bars.items()):
        middle = statistics.median(values)
        error = [[middle - min(values)], [max(values) - middle]]
        ours = name.partition(": ")[2].startswith(OURS)
        colour = OUR_COLOUR if ours else OTHER_COLOUR
        axes.barh(position, middle, 0.6, xerr=error, color=colour, ecolor="#333")
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.set_xlabel(label)
