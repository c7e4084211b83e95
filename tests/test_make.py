"""The Makefile and `.ci/run`: which Python is taken, and what is said of each part."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.small import ROOT

SHIM = '#!/bin/sh\necho "no such version" >&2\nexit 127\n'


def write_program(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def make_env(tmp_path):
    """Run `make -n env` or `make env` with the given programs first on the path."""
    for name in ("Makefile", "pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, tmp_path)

    def run(*arguments, **programs):
        for name in ("python3", "python3.13", "python3.12", "python3.11"):
            write_program(tmp_path / "bin" / name, programs.get(name.replace(".", "_"), SHIM))
        environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
        command = ["make", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return run


def test_the_first_python_that_runs_is_taken(make_env, tmp_path):
    real = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    done = make_env("-n", "env", python3_12=real, python3_11=real)
    assert f'--python "{tmp_path}/bin/python3.12"' in done.stdout


def test_python_can_be_named(make_env):
    assert '--python "some/python"' in make_env("-n", "env", "PYTHON=some/python").stdout


def test_no_python_that_runs_is_said_with_what_to_do(make_env):
    done = make_env("env")
    assert done.returncode != 0
    assert "no Python from 3.11 to 3.14 that runs" in done.stdout
    assert "make env PYTHON=" in done.stdout


@pytest.fixture
def run_ci(tmp_path):
    """Run `.ci/run` with a make that fails for one target; return its exit status and its lines."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    says = 'echo "== 3 passed in 1.50s =="; test "$1" != "$FAILING"\n'
    write_program(tmp_path / "bin/make", f"#!/bin/sh\n{says}")
    command, path = [tmp_path / ".ci/run"], f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def run(failing):
        environment = {"PATH": path, "FAILING": failing}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines()

    return run


@pytest.mark.parametrize("failing", ["", "test"])
def test_ci_runs_every_part_and_fails_when_one_does(run_ci, failing):
    status, lines = run_ci(failing)
    summary = [line.split() for line in lines[-5:]]
    assert [words[0] for words in summary] == ["set-up", "lint", "test", "test-real", "test-docs"]
    assert [words[0] for words in summary if words[4] == "1"] == ([failing] if failing else [])
    assert all(" ".join(words[5:]) == "== 3 passed in 1.50s ==" for words in summary)
    assert status == bool(failing)


def test_ci_goes_on_without_smollm2_and_says_so(run_ci):
    status, lines = run_ci("smollm2")
    assert status == 0
    assert lines[-2].startswith("test-docs")
    assert lines[-1] == "SmolLM2 was not fetched: the tests with it are skipped"


@pytest.mark.parametrize(
    ("given", "read"), [([], ""), (["inputs=runs/train/one"], ' "inputs=runs/train/one"')]
)
def test_a_model_is_fused_on_demand(make_env, given, read):
    real = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    done = make_env("-n", "fuse", *given, python3_12=real)
    assert f'python -m stages.export "export.formats=[fused]"{read}\n' in done.stdout.replace(
        " \n", "\n"
    )
