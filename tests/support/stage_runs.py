"""Stages run by hand on the smallest settings, each on what the stages before it have written."""

import os
import shutil
import subprocess
import sys

from tests.support.small import ROOT

SMALLEST = {
    "prepare": [
        "data.conflicts.num_documents=120",
        "data.conflicts.num_pretrain_documents=60",
        "data.conflicts.num_contests=12",
    ],
    "weights": ["model.pretrain.num_steps=1"],
    "train": ["train.num_steps=2", "train.validation_documents=4", "train.steps_per_save=1"],
    "export": [],
    "validate": ["validate.documents=12", "validate.num_samples=1", "validate.sample_tokens=2"],
    "benchmark": [
        "benchmark.num_steps=1",
        "benchmark.num_runs=1",
        "benchmark.prompt_tokens=4",
        "benchmark.generated_tokens=2",
    ],
}
OUTPUTS = {
    "prepare": "data/prepared",
    "weights": "models/base",
    "train": "models/trained",
    "export": "models/export",
    "validate": "models/validation",
    "benchmark": "metrics",
}
STAGE_SECONDS = 240


def command(stage, out, *more, earlier=None):
    """Return the command of a stage."""
    places = [f"hydra.run.dir={out}", f"inputs={earlier or out}"]
    overrides = ["experiment=smoke", *SMALLEST[stage], *places, *more]
    return [sys.executable, "-m", f"stages.{stage}", *overrides]


def environment(**changes):
    """Return the environment with changes; None removes a variable."""
    changed = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **changes}
    return {name: value for name, value in changed.items() if value is not None}


def run(stage, out, *more, earlier=None, shell="", **changes):
    """Run a stage to its end.

    Args:
        stage: its name.
        out: where it writes.
        more: overrides.
        earlier: the run with what it reads; `out` itself if None.
        shell: commands of a shell that come before, such as `ulimit`.
        changes: of the environment.
    """
    words = command(stage, out, *more, earlier=earlier)
    if shell:
        words = ["sh", "-c", f'{shell}; exec "$@"', "sh", *words]
    return subprocess.run(
        words,
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=STAGE_SECONDS,
        check=False,
    )


def make_world(folder):
    """Run all stages into one folder."""
    folder.mkdir(parents=True)
    for stage in SMALLEST:
        done = run(stage, folder)
        assert done.returncode == 0, f"{stage}\n{done.stdout}\n{done.stderr}"
    return folder


def place_with(world, stage, folder):
    """Make a folder with the earlier output of a stage, to be written again; return what it is."""
    shutil.copytree(world / OUTPUTS[stage], folder / OUTPUTS[stage])
    (folder / OUTPUTS[stage] / "SHA256SUMS").write_text("earlier\n")
    return contents(folder / OUTPUTS[stage])


def contents(folder):
    """Read all files of a folder, by name."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def hidden(folder):
    """List what a stage leaves beside its outputs, the records of the run apart."""
    found = [path for path in folder.rglob(".*") if path.name not in (".hydra", ".made")]
    return [path.relative_to(folder).as_posix() for path in found]
