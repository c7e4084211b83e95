"""Draw docs/schedules.png: `python -m tools.draw_schedules` in the repository's root."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipeline.files import ROOT
from pipeline.optim.schedules import FALLS, RateSettings, make_schedule

PICTURE = ROOT / "docs" / "schedules.png"
NUM_STEPS, BEYOND_STEPS = 200, 20
WARMUP_FRACTION, DECAY_FRACTION, FINAL_FRACTION = 0.1, 0.25, 0.1
LINE_COLOUR, FAINT = "#0b6e99", "#8a8f98"


def rates(name: str) -> np.ndarray:
    """Return the rate of each update as a share of the peak, with some updates after the end."""
    settings = RateSettings(
        schedule=name,
        learning_rate=1.0,
        warmup_fraction=WARMUP_FRACTION,
        final_fraction=None if name == "constant" else FINAL_FRACTION,
        decay_fraction=DECAY_FRACTION if name == "wsd" else None,
    )
    schedule = make_schedule(settings, NUM_STEPS)
    return np.array([schedule(step) for step in range(NUM_STEPS + BEYOND_STEPS)])


def draw(path: Path) -> Figure:
    """Draw each schedule in a panel, and write the picture."""
    style: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(9, 2.6), dpi=110, layout="constrained")
        for axes, name in zip(figure.subplots(1, len(FALLS), sharey=True), FALLS, strict=True):
            series = rates(name)
            axes.plot(range(1, len(series) + 1), series, color=LINE_COLOUR, linewidth=1.6)
            axes.axvline(NUM_STEPS, color=FAINT, linewidth=0.8, linestyle="--")
            axes.set(title=name, xlabel="step", ylim=(0, 1.05), xlim=(0, len(series)))
        figure.axes[0].set_ylabel("share of the peak")
        figure.savefig(path, metadata={"Software": None})
    return figure


if __name__ == "__main__":
    draw(PICTURE)
