"""One table of the jobs of a sweep: what they varied, and what came of it.

Hydra calls it at the end of `python -m stages.NAME -m ...`, through `callbacks:` in
`conf/config.yaml`. It does not call it when a job has failed; by hand then:
`python -m pipeline.config.sweep_table runs/train/sweep_...`.
"""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pipeline.config.figures import (
    GREATEST_IS_BEST,
    Figures,
    compared,
    decisive,
    is_number,
    merged,
    order_of,
    read_metrics,
    written,
)
from pipeline.errors import PipelineError
from pipeline.external.json_files import Remedy
from pipeline.files import write_text

RERUN = Remedy(PipelineError, "Delete the folder of this job, or run the sweep again.")
MOST_FIGURES = 7


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        name: of its folder.
        overrides: by key, as they were given.
        compared: the figures by which runs are compared; none of a stage that has no such.
        figures: all of them, those first by which runs are compared; none where the job has failed.
    """

    name: str
    overrides: dict[str, str]
    compared: Figures
    figures: Figures


def read_job(folder: Path) -> Job:
    """Read what Hydra and the stage have left in a folder.

    Raises:
        PipelineError: when a file of metrics is damaged.
    """
    given = [str(item) for item in OmegaConf.load(folder / ".hydra/overrides.yaml")]
    overrides = {name: value for name, _, value in (item.partition("=") for item in given)}
    metrics = read_metrics(folder, RERUN)
    return Job(folder.name, overrides, compared(metrics), merged(metrics))


def write_table(folder: Path) -> str:
    """Write table.csv, with all figures, and table.md, with few; return the latter's text.

    Raises:
        PipelineError: when the folder holds no job.
    """
    folders = [path.parent for path in folder.glob("*/.hydra")]
    if not folders:
        raise PipelineError(
            f"{folder}: no job of a sweep is here.\n"
            "Give the folder of a sweep, runs/STAGE/sweep_TIME."
        )
    jobs = list(map(read_job, sorted(folders, key=lambda path: (len(path.name), path.name))))
    write_text(folder / "table.csv", whole_table(jobs))
    text = short_table(jobs)
    write_text(folder / "table.md", text + "\n")
    return text


def whole_table(jobs: Sequence[Job]) -> str:
    """Return all overrides and all figures as CSV, a row for each job in their order."""
    rows = [
        {"job": job.name, **job.overrides, **(job.figures or {"failed": "yes"})} for job in jobs
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def short_table(jobs: Sequence[Job]) -> str:
    """Return the varied keys and few figures in Markdown, the best job first."""
    keys, figure = varied(jobs), decisive(job.compared for job in jobs)
    names = shown_figures(jobs, keys)
    ordered = sorted(jobs, key=lambda job: order_of(job.compared))
    best = order_of(ordered[0].compared) if figure else None
    rows = [cells_of(job, keys, names, best) for job in ordered]
    text = markdown([["job", *keys, *names], *rows])
    if figure:
        order = "greatest" if GREATEST_IS_BEST[figure] else "least"
        text += f"\n\nOrdered by {figure}, the {order} first. All figures: table.csv"
    return text


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table, whose first row has the names of the columns."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    header, *others = rows
    lines = [header, ["-" * width for width in widths], *others]
    padded = [map(str.ljust, line, widths) for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)


def cells_of(
    job: Job, keys: Sequence[str], names: Sequence[str], best: tuple[float, ...] | None
) -> list[str]:
    """Return the row of a job.

    Args:
        job: the job.
        keys: that are shown.
        names: of the figures that are shown.
        best: the order of the best jobs; None where none is better than others.
    """
    note = " (best)" if order_of(job.compared) == best else "" if job.figures else " (failed)"
    values = [written(job.figures[name]) if name in job.figures else "" for name in names]
    return [job.name + note, *(job.overrides.get(key, "") for key in keys), *values]


def varied(jobs: Sequence[Job]) -> list[str]:
    """List the keys that not all jobs have set to the same value; of a single job, all."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    if len(jobs) == 1:
        return list(keys)
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def shown_figures(jobs: Sequence[Job], keys: Sequence[str]) -> list[str]:
    """Choose the few figures that are shown, without those that are a varied key.

    Where a stage has none by which runs are compared, these are the ones that differ.
    """
    names = list(dict.fromkeys(name for job in jobs for name in job.compared))
    if not names:
        every = dict.fromkeys(name for job in jobs for name in job.figures)
        names = [name for name in every if len({str(job.figures.get(name)) for job in jobs}) > 1]
    own = {key.rpartition(".")[2] for key in keys}
    numbers = [name for name in names if any(is_number(job.figures.get(name)) for job in jobs)]
    return [name for name in numbers if name not in own][:MOST_FIGURES]


class SweepTable(Callback):
    """Write the table when a multirun ends."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ANN401
        """Write and print the table of this sweep."""
        folder = Path(config.hydra.sweep.dir)
        print(f"{write_table(folder)}\n{folder}/table.md")


def main(arguments: list[str]) -> int:
    """Write the table of the sweep whose folder is given."""
    try:
        print(write_table(Path(*arguments)))
    except PipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
