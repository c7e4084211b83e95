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
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from pipeline.benchmark.peers.programs import (
    BFLOAT16,
    FLOAT32,
    INSTALLED,
    MLX_LM,
    OURS,
    UNCACHED,
)
from pipeline.benchmark.peers.results import COLUMNS
from pipeline.config.figures import written
from pipeline.config.stage_paths import Paths
from pipeline.files import write_json, write_text
from pipeline.train.memory import GB

Row = tuple[str, str, str, int, float]
MACHINE = "machine"
"""In the place of a program: what the matrix products of this machine would allow."""
OUR_COLOUR, OTHER_COLOUR = "#0b6e99", "#8a8f98"
PANELS = {
    "tokens_per_second": "tokens per second",
    "targets_per_second": "targets per second",
    "seconds_to_loss": "seconds to the same validation loss",
    "peak_bytes": "peak memory in GB",
}
"""The figures that are drawn, and the labels of their axes."""
NAMES = {
    OURS: "Tidewheel",
    UNCACHED: "Tidewheel without cache",
    MLX_LM: "mlx-lm",
    INSTALLED: "mlx-lm as installed",
    FLOAT32: "torch and peft, float32",
    BFLOAT16: "torch and peft, bfloat16",
    MACHINE: "bound of this machine",
}
ALONE = "alone"
"""The part in which only our own program is measured."""
ROOM = 1.2
"""The axis ends at this multiple of the longest bar, so that the number behind it has room."""


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
    """Draw medians as bars with their numbers, and lines from the smallest to the largest value.

    Args:
        path: the PNG to write; equal input gives equal bytes.
        rows: as `write_table` writes them.
    """
    found = {name: bars_of(rows, name) for name in PANELS}
    found = {name: bars for name, bars in found.items() if bars} or {"tokens_per_second": {}}
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        height = 0.9 + 0.28 * max(3, *map(len, found.values()))
        figure = Figure(figsize=(4.8 * len(found), height), dpi=110, layout="constrained")
        for axes, (name, bars) in zip(
            figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
        ):
            draw_bars(axes, bars, PANELS[name])
        figure.savefig(path, metadata={"Software": None})


def bars_of(rows: list[Row], figure: str) -> dict[str, list[float]]:
    """Return the values of a figure in all rounds, by part and program; bytes become GB."""
    bars: dict[str, list[float]] = {}
    unit = GB if figure.endswith("_bytes") else 1
    for part, name, program, _, value in rows:
        if name == figure:
            place = "" if part == ALONE else part.replace("_", " ") + ": "
            bars.setdefault(place + NAMES.get(program, program), []).append(value / unit)
    return bars


def draw_bars(axes: Axes, bars: dict[str, list[float]], label: str) -> None:
    """Draw the bars of one figure, those of Tidewheel in colour."""
    for position, (name, values) in enumerate(bars.items()):
        middle = statistics.median(values)
        error = [[middle - min(values)], [max(values) - middle]]
        colour = OUR_COLOUR if NAMES[OURS] in name else OTHER_COLOUR
        axes.barh(position, middle, 0.6, xerr=error, color=colour, ecolor="#333")
        axes.annotate(
            written(middle),
            (max(values), position),
            (3, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set_xlim(0, ROOM * max((max(values) for values in bars.values()), default=1))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.invert_yaxis()
    axes.set_xlabel(label)
