"""Prints what came of each stage, and how to use what was trained.

python -m stages.summary                of `dvc repro`
python -m stages.summary RUN_FOLDER     of a run by hand, with the runs that it was made from
"""

import argparse
import itertools
import os
import sys
from pathlib import Path

from pipeline.config.earlier_runs import earlier_runs
from pipeline.config.faults import report
from pipeline.config.graph import dvc_stages, folders_of, makers
from pipeline.errors import PipelineError
from pipeline.files import ROOT
from pipeline.summary import TRAINED, result_line, use_lines


def summary(run: str | None) -> list[str]:
    """List the results of all stages whose metrics are found, and the folders that they wrote.

    Args:
        run: the folder of a run by hand; None: the repository.

    Raises:
        PipelineError: when there is no such run, or no stage has written anything.
    """
    places = list(earlier_runs(run, Path(), makers()).folders) if run else [ROOT]
    lines, folders = [], []
    for stage_name in dvc_stages():
        found = (line for place in places if (line := result_line(stage_name, place)))
        lines += itertools.islice(found, 1)
        names = folders_of(stage_name)
        folders += [place / name for place in places for name in names if (place / name).exists()]
    if not lines:
        raise PipelineError(
            f"no stage has written metrics (looked in {', '.join(map(str, places))}).\n"
            "Run `make repro`, or name a run by hand: python -m stages.summary RUN_FOLDER"
        )
    if folders:
        lines.append("written: " + ", ".join(os.path.relpath(folder) for folder in folders))
    is_trained = any(folder.as_posix().endswith(TRAINED) for folder in folders)
    return [*lines, *(use_lines(run) if is_trained else [])]


def main() -> int:
    """Print the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", metavar="RUN_FOLDER")
    try:
        print("\n".join(summary(parser.parse_args().run)))
    except PipelineError as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
