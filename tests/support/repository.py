"""A real DVC in a copy of the repository, for the tests that run stages as a user does."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}
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


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A repository whose conf/ chooses the smoke experiment, after one `dvc repro`."""
    folder = fresh_clone(tmp_path_factory.mktemp("smoke") / "repository")
    config = folder / "conf/config.yaml"
    config.write_text(config.read_text().replace("experiment: null", "experiment: smoke"))
    stage(folder, "params")
    assert ran(run(folder, "dvc", "repro")) == list(STAGES)
    commit(folder)
    return folder
