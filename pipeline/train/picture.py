"""The memory of a run as a picture: a sawtooth where processes take over from each other."""

import csv
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.train.memory import GB

HELD_COLOUR, ARRAYS_COLOUR, BOUND_COLOUR, FAINT = "#0b6e99", "#8a8f98", "#b3412e", "#c9d6df"
HELD, ARRAYS = "all processes of the run", "of that, arrays of the model"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
MAX_MARKS = 200
"""Reloads that are marked one by one; more would hide the curve."""


def draw_memory(curve: Path, path: Path) -> None:
    """Draw what the run held after every step, with the limit, the threshold and every reload.

    The axis ends above what was held. A bound that is higher is named with an arrow instead of
    flattening the curve.

    Args:
        curve: plots/machine.csv.
        path: the PNG to write; equal input gives equal bytes.
    """
    columns = read_columns(curve)
    steps, held = columns["step"], columns["footprint_bytes"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.2), dpi=110, layout="constrained")
        axes = figure.subplots()
        top = 1.2 * max(held)
        mark_reloads(axes, steps, columns["reloads"])
        axes.plot(steps, held, color=HELD_COLOUR, linewidth=1.2, label=HELD)
        arrays = columns["mlx_active_bytes"]
        axes.plot(steps, arrays, color=ARRAYS_COLOUR, linewidth=1, label=ARRAYS)
        limit, bound = columns["memory_limit_bytes"][-1], columns["reload_above_bytes"][-1]
        draw_bound(axes, "limit", limit, top, "left")
        if bound < limit:
            draw_bound(axes, "a new process above", bound, top, "right")
        axes.set(xlabel="step", ylabel="GB", ylim=(0, top), xlim=(0, steps[-1]))
        axes.set_title("Memory held after each step of the training, in GB")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        figure.savefig(path, metadata={"Software": None})


def read_columns(path: Path) -> dict[str, list[float]]:
    """Read machine.csv by column; bytes become GB."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scale = {name: GB if name.endswith("_bytes") else 1 for name in rows[0]}
    return {name: [float(row[name]) / scale[name] for row in rows] for name in rows[0]}


def mark_reloads(axes: Axes, steps: list[float], reloads: list[float]) -> None:
    """Draw a line before the first step of each new process."""
    pairs = zip(steps[1:], reloads, reloads[1:], strict=False)
    marks = [step - 0.5 for step, before, after in pairs if after > before]
    for mark in marks[:MAX_MARKS]:
        axes.axvline(mark, color=FAINT, linewidth=0.8)
    if marks:
        axes.plot([], [], color=FAINT, linewidth=0.8, label=f"a new process begins ({len(marks)})")


def draw_bound(axes: Axes, name: str, gigabytes: float, top: float, side: str) -> None:
    """Draw a bound, or name it with an arrow where it is above the picture.

    Args:
        axes: the panel.
        name: of the bound.
        gigabytes: where it is.
        top: of the panel, in GB.
        side: at which its name stands, `left` or `right`, so that two names have room.
    """
    text, place = f" {name}: {gigabytes:.2f} GB ", 0 if side == "left" else 1
    across = axes.get_yaxis_transform()  # x is the share of the width
    if gigabytes <= top:
        style = "-" if side == "left" else "--"
        axes.axhline(gigabytes, color=BOUND_COLOUR, linewidth=1, linestyle=style)
        above = "bottom" if side == "left" else "top"
        axes.text(place, gigabytes, text, color=BOUND_COLOUR, va=above, ha=side, transform=across)
    else:
        text += "↑ "
        axes.text(place, top, text, color=BOUND_COLOUR, va="top", ha=side, transform=across)
