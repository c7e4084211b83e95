"""By hand: finds what earlier stages have written, and starts those whose outputs are missing.

Such a stage writes into `runs/STAGE/KEY`, where KEY is a hash of the parameters, files and code
that it reads, so the next command of the same kind finds the outputs there.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from pipeline.config.composition import composed
from pipeline.config.earlier_runs import earlier_runs
from pipeline.config.graph import folders_of, makers, sections_of, stages_before
from pipeline.config.keys import concerns, inside
from pipeline.config.overrides import (
    INPUTS,
    is_sweep,
    key_in,
    on_top,
    overrides_in,
    recorded_overrides,
    without,
)
from pipeline.config.records import (
    FOLDER,
    files_of,
    parameters_of,
    read_record,
    record_of,
    recorded_by_dvc,
)
from pipeline.config.stage_paths import Paths, data_hashes
from pipeline.errors import ConfigError, report_problems
from pipeline.files import ROOT

RUNS, LATEST = Path("runs"), "latest"


def resolve_inputs(arguments: list[str]) -> list[str]:
    """Put arguments on top of those that the run given as `inputs=` was made with.

    `inputs=latest` becomes the run of `train` that has finished last.

    Raises:
        ConfigError: when there is no such run, or its record is damaged.
    """
    named = named_inputs(arguments)
    if named is None:
        return arguments
    named = latest_run() if named == LATEST else named
    own = overrides_in(arguments)
    rest = [item for item in arguments if item not in own]
    own = on_top(recorded_overrides(Path(named)), without(own, INPUTS))
    return [*rest, *own, f"{INPUTS}={named}"]  # Hydra wants overrides side by side


def named_inputs(arguments: list[str]) -> str | None:
    """Return the value of `inputs=`, the last one; None where there is none."""
    found = [item for item in overrides_in(arguments) if key_in(item) == INPUTS]
    value = found[-1].partition("=")[2] if found else "null"
    return None if value in ("null", "") else value


def latest_run() -> str:
    """Find the run of `train` by hand that has finished last.

    Raises:
        ConfigError: when there is none.
    """
    records = [
        *RUNS.glob(f"train/*/{FOLDER}/train.json"),
        *RUNS.glob(f"train/*/*/{FOLDER}/train.json"),
    ]
    if not records:
        raise ConfigError(
            f"{INPUTS}={LATEST}: no run of train has finished under {RUNS.resolve()}/train.\n"
            "Train by hand first (`python -m stages.train`), or leave inputs= out to use the "
            "outputs of `dvc repro`."
        )
    return str(max(records, key=lambda file: file.stat().st_mtime).parents[1])


def with_earlier_stages(stage_name: str, own: Collection[str], arguments: list[str]) -> list[str]:
    """Make what a stage needs and nobody has made yet.

    Args:
        stage_name: the stage.
        own: sections that it reads itself.
        arguments: of its command.

    Returns:
        The arguments, with `inputs=` leading to all that the stage needs.

    Raises:
        ConfigError: when a parameter contradicts the outputs that were named.
        SystemExit: when a stage fails; it has printed why.
    """
    needed = stages_before(stage_name)
    if not needed:
        return arguments
    overrides = overrides_in(arguments)
    refuse_swept(stage_name, own, needed, [item for item in overrides if is_sweep(item)])
    single = [item for item in without(overrides, INPUTS) if not is_sweep(item)]
    search = Search(stage_name, own, single, composed(single), named_inputs(arguments))
    search.run(needed)
    rest = [item for item in arguments if item not in overrides]
    led = [] if search.inputs is None else [f"{INPUTS}={search.inputs}"]
    return [*rest, *without(overrides, INPUTS), *led]


def refuse_swept(
    stage_name: str, own: Collection[str], needed: list[str], swept: list[str]
) -> None:
    """Refuse a sweep over what only earlier stages read; report one over what they read too.

    Raises:
        ConfigError: with a command that sweeps the whole graph.
    """
    earlier = [section for name in needed for section in sections_of(name)]
    both = [item for item in swept if concerns(key_in(item), earlier)]
    foreign = [item for item in both if not concerns(key_in(item), own)]
    sets = " ".join(f"-S {shlex.quote(item)}" for item in swept)
    report_problems(
        ConfigError,
        f"A sweep of {stage_name} alone cannot set what earlier stages read:",
        foreign,
        f"Sweep the whole graph:\n  dvc exp run --queue {sets}",
    )
    for item in both:
        print(f"{stage_name}: {item} is swept for this stage alone", file=sys.stderr)


@dataclass
class Search:
    """Looks for the outputs of earlier stages, and makes those that are missing.

    Attributes:
        stage_name: the stage that needs them.
        own: sections that this stage reads itself.
        overrides: of the command, without sweeps.
        config: all parameters, as the overrides set them.
        inputs: the run that leads to what was found so far; None: the repository.
    """

    stage_name: str
    own: Collection[str]
    overrides: list[str]
    config: DictConfig
    inputs: str | None

    def run(self, needed: list[str]) -> None:
        """Find or make the outputs of all these stages, which are in the order of the graph."""
        if self.inputs is None:
            found = [name for name in needed if self.is_as_dvc_made(name)]
            num_found = next((i for i, name in enumerate(needed) if name not in found), len(needed))
        else:
            places = {name: self.place_of(name) for name in needed}
            self.refuse_contradictions(places)
            num_found = max((i + 1 for i, name in enumerate(needed) if places[name]), default=0)
        for name in needed[num_found:]:
            self.make(name)

    def is_as_dvc_made(self, name: str) -> bool:
        """Whether the repository has the outputs of a stage, made of the same parameters."""
        if not has_outputs(ROOT, name):
            return False
        parameters = parameters_of(self.config, sections_of(name))
        return recorded_by_dvc(name) == (parameters, files_of(name, self.config))

    def place_of(self, name: str) -> Path | None:
        """Find the folder that has the outputs of a stage, on the way that `inputs` leads."""
        runs = earlier_runs(self.inputs, Path(), makers())
        places = [*runs.folders, *([ROOT] if runs.with_repository else [])]
        return next((place for place in places if has_outputs(place, name)), None)

    def refuse_contradictions(self, places: dict[str, Path | None]) -> None:
        """Refuse parameters that would have no effect, because their stage has run with others.

        Raises:
            ConfigError: with each parameter, its value there and here.
        """
        problems = []
        for name, place in places.items():
            then = recorded_parameters(place, name) if place else {}
            now = parameters_of(self.config, sections_of(name)) if then else {}
            problems += [
                f"{key}: {then.get(key)} in {place}, {now.get(key)} here"
                for key in sorted(then.keys() | now.keys())
                if then.get(key) != now.get(key) and not inside(key, self.own)
            ]
        report_problems(
            ConfigError,
            f"{INPUTS}={self.inputs}: its outputs were made with other parameters:",
            list(dict.fromkeys(problems)),
            "Leave inputs= out, and they are made with these; or set the parameters as there.",
        )

    def make(self, name: str) -> None:
        """Make the outputs of a stage, unless an earlier command has."""
        earlier = Paths(Path(), earlier_runs(self.inputs, Path(), makers()))
        record = record_of(name, self.config, data_hashes(name, earlier))
        folder = RUNS / name / record.key
        if read_record(folder, name) == record and has_outputs(folder, name):
            print(f"{self.stage_name}: uses {folder}, made before", file=sys.stderr)
        else:
            print(f"{self.stage_name}: makes {folder} first", file=sys.stderr, flush=True)
            self.start(name, folder)
        self.inputs = str(folder)

    def start(self, name: str, folder: Path) -> None:
        """Run a stage in a process of its own.

        Raises:
            SystemExit: with its exit code, when it fails.
        """
        read = [section for each in (*stages_before(name), name) for section in sections_of(each)]
        chosen = [item for item in self.overrides if concerns(key_in(item), read)]
        led = [] if self.inputs is None else [f"{INPUTS}={self.inputs}"]
        places = [*led, f"hydra.run.dir={folder}"]
        command = [sys.executable, "-m", f"stages.{name}", *chosen, *places]
        code = subprocess.run(command, check=False).returncode
        if code:
            print(f"{self.stage_name}: not started, because {name} failed", file=sys.stderr)
            raise SystemExit(code if code > 0 else os.EX_SOFTWARE)


def has_outputs(folder: Path, name: str) -> bool:
    """Whether a folder has what a stage writes for other stages."""
    return all((folder / out).exists() for out in folders_of(name))


def recorded_parameters(place: Path, name: str) -> dict[str, object]:
    """Read the parameters that outputs were made with; none where that is not recorded."""
    if place == ROOT:
        return recorded_by_dvc(name)[0]
    record = read_record(place, name)
    return record.parameters if record else {}
