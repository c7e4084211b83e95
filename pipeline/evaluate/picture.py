"""One picture of a run: how the loss fell, and what the tuned model does differently."""

import csv
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BASE_COLOUR, TUNED_COLOUR, FAINT = "#8a8f98", "#0b6e99", "#c9d6df"
KIND_LABELS = {
    "contest": "contest:\nprimary source wins",
    "two_primary": "two primaries:\nfirst wins",
    "two_authority": "two authorities:\nfirst wins",
}


def draw(train: Path, validation: Path, metrics: dict[str, Any], path: Path) -> None:
    """Draw the losses, and beside them the suite or, where there is none, the perplexities.

    Args:
        train: plots/train.csv.
        validation: plots/validation.csv.
        metrics: what `metrics/validate.json` says.
        path: the PNG to write; equal input gives equal bytes.
    """
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.2), dpi=110, layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_losses(left, read_columns(train), read_columns(validation))
        if "conflicts" in metrics:
            draw_shares(right, metrics["conflicts"])
        else:
            draw_perplexities(right, metrics["held_out"])
        figure.savefig(path, metadata={"Software": None})


def read_columns(path: Path) -> dict[str, list[float]]:
    """Read the numbers of a CSV file by column; an empty field is not a number."""
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
    axes.plot(train["step"], train["train_loss"], color=FAINT, linewidth=0.8, label="training")
    axes.plot(
        validation["step"],
        validation["val_loss"],
        color=TUNED_COLOUR,
        marker="o",
        markersize=3,
        label="validation",
    )
    axes.set_xlabel("step")
    axes.set_ylabel("nats per token")
    axes.legend(frameon=False)


def draw_shares(axes: Axes, conflicts: dict[str, Any]) -> None:
    """Draw the share of each kind of item for both models, with 95 % intervals."""
    kinds = [kind for kind in KIND_LABELS if kind in conflicts]
    for offset, name, colour in ((-0.18, "base", BASE_COLOUR), (0.18, "tuned", TUNED_COLOUR)):
        parts = [conflicts[kind][name] for kind in kinds]
        shares = [part["share"] for part in parts]
        below = [part["share"] - part["low"] for part in parts]
        above = [part["high"] - part["share"] for part in parts]
        places = [place + offset for place in range(len(kinds))]
        axes.bar(places, shares, 0.34, yerr=[below, above], color=colour, ecolor="#333", label=name)
    axes.axhline(0.5, color="#333", linewidth=0.6, linestyle=":")
    axes.set_xticks(range(len(kinds)), [KIND_LABELS[kind] for kind in kinds])
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of held-out items")
    axes.legend(frameon=False)


def draw_perplexities(axes: Axes, held_out: dict[str, Any]) -> None:
    """Draw the perplexity of both models on held-out rows, with 95 % intervals."""
    for place, (name, colour) in enumerate((("base", BASE_COLOUR), ("tuned", TUNED_COLOUR))):
        part = held_out[name]
        value = part["perplexity"]
        error = [[value - part["perplexity_low"]], [part["perplexity_high"] - value]]
        axes.bar(place, value, 0.5, yerr=error, color=colour, ecolor="#333")
    axes.set_xticks([0, 1], ["base", "tuned"])
    axes.set_yscale("log")
    axes.set_ylabel("perplexity on held-out rows")
