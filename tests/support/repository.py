"""A real DVC in a copy of the repository, for the tests that run stages as a user does."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}
DEFAULTS = {
    "data": "conflicts",
    "model": "tiny",
    "train": "default",
    "validate": "default",
    "benchmark": "default",
}
"""What conf/config.yaml chooses in the groups whose keys the smoke experiment sets."""
STAGES = ("params", "prepare", "weights", "train", "export", "validate", "benchmark")


def run(folder, *command, check=True):
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def stage(folder, name, *overrides, check=True):
    return run(folder, sys.executable, "-m", f"stages.{name}", *overrides, check=check)


def ran(done):
    """List the stages that a `dvc repro` or `dvc exp run` really ran."""
    return [name for name in STAGES if f"Running stage '{name}'" in done.stdout]


def fresh_clone(folder):
    """Copy what git tracks, without results, into a repository of its own."""
    files = run(ROOT, "git", "ls-files", "-co", "--exclude-standard").stdout.split("\n")
    for name in filter(None, files):
        source = ROOT / name
        if source.is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    commit(folder)
    return folder


def commit(folder):
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--allow-empty", "--message", "x")


def read(folder, name):
    return json.loads((folder / "metrics" / f"{name}.json").read_text())


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def small_repository(folder):
    """Make a repository whose conf/ has the values of the smoke experiment, after a `dvc repro`.

    They are written into the files of the groups, so that another choice of a group replaces them.
    """
    fresh_clone(folder)
    values = yaml.safe_load((folder / "conf/experiment/smoke.yaml").read_text())
    for section, option in DEFAULTS.items():
        change_values(folder, f"{section}/{option}", values[section])
    stage(folder, "params")
    assert ran(run(folder, "dvc", "repro")) == list(STAGES)
    commit(folder)
    return folder


def change_values(folder, option, values):
    """Replace values in a file of conf/, which is named by group and option."""
    file = folder / f"conf/{option}.yaml"
    file.write_text(with_values(file.read_text(), values))


def with_values(text, values):
    """Replace values in the text of a file of conf/; each key has to occur once."""
    for key, value in values.items():
        if isinstance(value, dict):
            text = with_values(text, value)
        else:
            text, count = re.subn(rf"^( *{key}:).*", rf"\1 {value}", text, flags=re.MULTILINE)
            assert count == 1, key
    return text


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A small repository, for the tests of one module."""
    return small_repository(tmp_path_factory.mktemp("smoke") / "repository")
