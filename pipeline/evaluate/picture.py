"""One picture of a run: the base and the tuned model compared, and the losses of training."""

import csv
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

BASE_COLOUR, TUNED_COLOUR, FAINT, INK = "#8a8f98", "#0b6e99", "#c9d6df", "#333"
MODELS = (("base", BASE_COLOUR), ("tuned", TUNED_COLOUR))
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
BAR_WIDTH = 0.36
BEHIND = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
"""What is behind a number, so that it can be read on a curve."""
HEADROOM = 1.15
"""The axis ends at this multiple of the highest bar, so that the number above it has room."""
KIND_LABELS = {
    "contest": "an authority against a\nprimary record: the record",
    "two_primary": "two primary records\n(control): the first one",
    "two_authority": "two authorities\n(control): the first one",
}
"""What a question sets against each other, and the answer whose share is drawn."""


def draw(train: Path, validation: Path, metrics: dict[str, Any], path: Path) -> None:
    """Draw the base and the tuned model next to each other, and the losses in a smaller panel.

    The models are compared by the shares of the conflicts suite or, where there is none, by their
    perplexities on held-out rows.

    Args:
        train: plots/train.csv.
        validation: plots/validation.csv.
        metrics: the content of `metrics/validate.json`.
        path: the PNG to write; equal input gives equal bytes.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(2, 1))
        if "conflicts" in metrics:
            draw_shares(left, metrics["conflicts"])
        else:
            draw_perplexities(left, metrics["held_out"])
        draw_losses(right, read_columns(train), read_columns(validation))
        figure.savefig(path, metadata={"Software": None})


def read_columns(path: Path) -> dict[str, list[float]]:
    """Read the numbers of a CSV file by column; an empty field becomes NaN."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("step", "train_loss", "val_loss")
    return {
        name: [float("nan") if not row[name] else float(row[name]) for row in rows]
        for name in names
        if rows and name in rows[0]
    }


def draw_losses(
    axes: Axes, train: dict[str, list[float]], validation: dict[str, list[float]]
) -> None:
    """Draw the loss of each step, and that on the validation set."""
    axes.plot(train["step"], train["train_loss"], color=FAINT, linewidth=0.8, label="each step")
    axes.plot(
        validation["step"],
        validation["val_loss"],
        color=TUNED_COLOUR,
        marker="o",
        markersize=3,
        label="held-out documents",
    )
    for step, loss in ends_of(validation):
        place = {"xytext": (0, -13), "textcoords": "offset points", "ha": "center", "fontsize": 8}
        axes.annotate(f"{loss:.3f}", (step, loss), bbox=BEHIND, **place)
    axes.set(title="Loss while training, nats per token", xlabel="step")
    axes.margins(x=0.09, y=0.25)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.legend(frameon=False, fontsize=8)


def ends_of(validation: dict[str, list[float]]) -> list[tuple[float, float]]:
    """Return step and loss of the first validation and of the last, whose numbers are written."""
    points = list(zip(validation["step"], validation["val_loss"], strict=True))
    return sorted({*points[:1], *points[-1:]})


def draw_shares(axes: Axes, conflicts: dict[str, Any]) -> None:
    """Draw the share of each kind of item for both models, with 95 % intervals."""
    kinds = [kind for kind in KIND_LABELS if kind in conflicts]
    for side, (name, colour) in enumerate(MODELS):
        for position, kind in enumerate(kinds):
            part = conflicts[kind][name]
            middle = position + (side - 0.5) * BAR_WIDTH
            interval = part["low"], part["share"], part["high"]
            draw_bar(axes, middle, interval, colour, f"{part['share']:.0%}")
        axes.bar(0, 0, color=colour, label=name)
    axes.axhline(0.5, color=INK, linewidth=0.6, linestyle=":")
    labels = [f"{KIND_LABELS[kind]}\nn = {conflicts[kind]['n']:,}" for kind in kinds]
    axes.set_xticks(range(len(kinds)), labels)
    axes.set_ylim(0, HEADROOM)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title("Whom the model believes, with 95 % intervals")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.02, 0.98), ncols=2)


def draw_perplexities(axes: Axes, held_out: dict[str, Any]) -> None:
    """Draw the perplexity of both models on held-out rows, with 95 % intervals, from 0 up."""
    parts = [(held_out[name], colour) for name, colour in MODELS]
    for position, (part, colour) in enumerate(parts):
        value = part["perplexity"]
        interval = part["perplexity_low"], value, part["perplexity_high"]
        draw_bar(
            axes, position, interval, colour, f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
        )
    axes.set_xticks([0, 1], ["before training (base)", "after training (tuned)"])
    axes.set_xlim(-0.75, 1.75)
    highest = max(part["perplexity_high"] or part["perplexity"] for part, _ in parts)
    axes.set_ylim(0, HEADROOM * highest)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    count = held_out["n_documents"]
    axes.set_title(
        f"Perplexity on {count:,} held-out documents, with 95 % intervals; less is better"
    )


def draw_bar(
    axes: Axes,
    position: float | int,
    interval: tuple[float | None, float, float | None],
    colour: str,
    text: str,
) -> None:
    """Draw a bar with its interval, where there is one, and its value above both.

    Args:
        axes: the panel.
        position: the middle of the bar on the x axis.
        interval: the lower end, the value and the upper end.
        colour: of the bar.
        text: what is written above the bar.
    """
    low, value, high = interval
    error = None if low is None or high is None else [[value - low], [high - value]]
    top = value if high is None else high
    axes.bar(position, value, BAR_WIDTH * 0.94, yerr=error, color=colour, ecolor=INK)
    axes.annotate(text, (position, top), (0, 3), textcoords="offset points", ha="center")
