"""Print how two runs differ: `make compare A=RUN B=RUN`.

python -m tools.compare A B     A and B are folders under runs/, experiments of DVC, Git revisions,
                                or `workspace`: what lies in the repository now

Figures are those of metrics/summary.json and metrics/machine.json. Then come the parameters that
differ, and the answers of the tuned models where they differ.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc_data.index import DataIndexDirError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.config.faults import report
from pipeline.config.figures import COMPARED, Figures, is_number, merged, written
from pipeline.config.keys import flat
from pipeline.errors import PipelineError, printable
from pipeline.files import ROOT

WORKSPACE = "workspace"
SAMPLES, RECORD, PARAMS = "models/validation/samples.jsonl", ".hydra/config.yaml", "params.yaml"
FINGERPRINTS = "inputs"
MOST_COLUMNS = 160
MOST_LETTERS = 400
"""Of one text in a table."""
ABSENT = "(absent)"
Read = Callable[[str], str | None]
"""Returns the text of a file by its path in the repository; None where there is no such file."""


@dataclass(frozen=True)
class Run:
    """One of the two runs.

    Attributes:
        name: as it was given.
        figures: those by which runs are compared.
        parameters: by dotted names.
        answers: of the tuned model, by prompt.
    """

    name: str
    figures: Figures
    parameters: dict[str, Any]
    answers: dict[str, str]


def read_run(name: str) -> Run:
    """Read a run from its folder, or from what Git and DVC have of a revision.

    Raises:
        PipelineError: when there is no such run, or it has no figures yet.
    """
    folder = Path(name)
    if folder.is_dir():
        return run_of(name, lambda path: text_of(folder / path), RECORD)
    with closing(DVCFileSystem(str(ROOT), rev=None if name == WORKSPACE else name)) as files:
        require_revision(name, files)
        return run_of(name, lambda path: text_in(files, path), PARAMS)


def text_of(file: Path) -> str | None:
    """Read a file as text; None where there is none."""
    return file.read_text(encoding="utf-8") if file.is_file() else None


def require_revision(name: str, files: DVCFileSystem) -> None:
    """Refuse what names no revision and no experiment.

    Raises:
        PipelineError: when there is no such one.
    """
    try:
        files.info(f"/{PARAMS}")
    except (OSError, DvcException) as error:
        raise PipelineError(
            f"{name}: is neither the folder of a run nor a revision with params.yaml ({error}).\n"
            "`dvc exp list` and `git log` name those that there are; runs/ holds those by hand."
        ) from error


def text_in(files: DVCFileSystem, path: str) -> str | None:
    """Read a file of a revision from Git or from the cache; None where neither has it."""
    try:
        content = files.cat_file(f"/{path}")
    except (OSError, DvcException, DataIndexDirError):
        return None
    assert isinstance(content, bytes)
    return content.decode("utf-8")


def run_of(name: str, read: Read, parameters: str) -> Run:
    """Gather what is compared of a run.

    Args:
        name: as it was given.
        read: of its files.
        parameters: the file that has them.

    Raises:
        PipelineError: when it has no figures.
    """
    if all(read(f"metrics/{file}.json") is None for file in COMPARED):
        raise PipelineError(
            f"{name}: has neither metrics/summary.json nor metrics/machine.json.\n"
            "Name a run whose training or validation has ended."
        )
    metrics = {file: parsed(name, f"metrics/{file}.json", read, json.loads) for file in COMPARED}
    values = dict(flat(parsed(name, parameters, read, yaml.safe_load)))
    return Run(
        name,
        merged(metrics),
        {key: value for key, value in values.items() if key.partition(".")[0] != FINGERPRINTS},
        parsed(name, SAMPLES, read, answers_of),
    )


def parsed(
    name: str, path: str, read: Read, parse: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """Parse a file of a run; return nothing where there is none.

    Raises:
        PipelineError: when it is damaged.
    """
    text = read(path)
    try:
        return {} if text is None else parse(text)
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise PipelineError(
            f"{name}: {path} cannot be read ({type(error).__name__}: {error}).\n"
            "Make the run again, or compare another one."
        ) from error


def answers_of(lines: str) -> dict[str, str]:
    """Return the answers of the tuned model by their prompts."""
    rows = map(json.loads, lines.splitlines())
    return {row["prompt"]: row["tuned"] for row in rows}


def figure_rows(first: Run, second: Run) -> Iterator[tuple[str, ...]]:
    """Yield name, both values, and the change from the first run to the second."""
    for name in dict.fromkeys([*first.figures, *second.figures]):
        old, new = first.figures.get(name), second.figures.get(name)
        change = ""
        if is_number(old) and is_number(new):
            change = written(new - old)
            change = change if change.startswith("-") or new == old else f"+{change}"
        yield name, shown(old), shown(new), change


def differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield name and both values where they differ; a name that one side lacks differs."""
    for name in dict.fromkeys([*old, *new]):
        if old.get(name, ABSENT) != new.get(name, ABSENT):
            yield name, str(old.get(name, ABSENT)), str(new.get(name, ABSENT))


def shown(value: Any) -> str:  # noqa: ANN401
    """Write a figure; nothing where there is none."""
    return "" if value is None else written(value)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Lay out rows as a table; what no terminal can show is escaped, and long texts are cut."""
    found = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_lines=False)
    for column in columns:
        found.add_column(Text(column), overflow="fold")
    for row in rows:
        cells = [printable(cell) for cell in row]
        found.add_row(*(Text(cut(cell)) for cell in cells))
    return found


def cut(text: str) -> str:
    """Cut a text that is too long for a table."""
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"


def tables(first: Run, second: Run) -> Iterator[Table | str]:
    """Yield what is printed of two runs."""
    yield f"A: {printable(first.name)}\nB: {printable(second.name)}"
    yield table("figures", ("", "A", "B", "B - A"), list(figure_rows(first, second)))
    parameters = list(differences(first.parameters, second.parameters))
    if parameters:
        yield table("parameters that differ", ("", "A", "B"), parameters)
    else:
        yield "All parameters are equal."
    for run in (first, second):
        if not run.answers:
            yield f"{printable(run.name)} has no answers here: `dvc fetch` may bring them."
    common = [prompt for prompt in first.answers if prompt in second.answers]
    old, new = ({prompt: run.answers[prompt] for prompt in common} for run in (first, second))
    answers = list(differences(old, new))
    if answers:
        yield table("answers of the tuned models that differ", ("prompt", "A", "B"), answers)
    yield f"{len(answers)} of {len(common)} answers to the same prompts differ."


def main(arguments: list[str]) -> int:
    """Compare the two runs that are given; return the exit code."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    width = min(MOST_COLUMNS, shutil.get_terminal_size((MOST_COLUMNS, 0)).columns)
    console = Console(width=width, markup=False, highlight=False, emoji=False)
    try:
        for part in tables(*map(read_run, arguments)):
            console.print(part)
    except PipelineError as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
