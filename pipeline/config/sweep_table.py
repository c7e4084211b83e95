"""One table of what a multirun varied and what came out of it.

A Hydra callback. Hydra does not call it when a job has failed; by hand then:
`python -m pipeline.config.sweep_table runs/train/sweep_...`.
"""

import csv
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pipeline.config.keys import flat
from pipeline.errors import PipelineError
from pipeline.external.json_files import Remedy, read_own
from pipeline.files import write_text

RERUN = Remedy(PipelineError, "Delete the folder of this job, or run the sweep again.")


def row_of(job: Path) -> dict[str, Any]:
    """Collect the overrides and the metrics of one job."""
    row: dict[str, Any] = {"job": job.name}
    overrides = OmegaConf.load(job / ".hydra/overrides.yaml")
    for item in overrides:
        name, _, value = str(item).partition("=")
        row[name] = value
    files = sorted(job.glob("metrics/*.json"))
    for file in files:
        row.update(flat(read_own(file, {}, RERUN)))
    return row if files else {**row, "failed": "yes"}


def write_table(folder: Path) -> str:
    """Write table.csv and table.md for the jobs of a sweep; give the latter's text.

    Raises:
        PipelineError: when the folder holds no job.
    """
    jobs = [path.parent for path in folder.glob("*/.hydra")]
    if not jobs:
        raise PipelineError(
            f"{folder}: no job of a sweep is here.\n"
            "Give the folder of a sweep, runs/STAGE/sweep_TIME."
        )
    rows = [row_of(job) for job in sorted(jobs, key=lambda job: (len(job.name), job.name))]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    lines = [names, ["---"] * len(names)]
    lines += [[str(row.get(name, "")) for name in names] for row in rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    write_text(folder / "table.md", text + "\n")
    return text


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
