"""What interrupts DVC costs no step: the next `dvc repro` goes on to the same bits."""

import json
import os
import shutil
import signal
import subprocess

import pytest

from pipeline.files import sha256_file
from tests.support.repository import ENVIRONMENT, commit, read, run, stage, wait_for


@pytest.fixture(scope="module")
def long_smoke(smoke, tmp_path_factory):
    """A copy of that repository whose training is long enough to be interrupted."""
    folder = tmp_path_factory.mktemp("long") / "repository"
    shutil.copytree(smoke, folder, symlinks=True)
    config = folder / "conf/experiment/smoke.yaml"
    text = config.read_text().replace("num_steps: 12", "num_steps: 150")
    config.write_text(text.replace("  steps_per_eval: 6", "  batch_size: 4\n  steps_per_eval: 50"))
    stage(folder, "params")
    run(folder, "dvc", "repro", "params")
    commit(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(long_smoke):
    """Hash what comes out when nothing interrupts; a run by hand is the same run."""
    stage(long_smoke, "train", "hydra.run.dir=runs/undisturbed")
    return sha256_file(long_smoke / "runs/undisturbed/models/trained/adapters.safetensors")


def start_repro(folder):
    """Start `dvc repro train`, and wait until its training has made some steps."""
    run(folder, "git", "reset", "--quiet", "--hard")
    shutil.rmtree(folder / "models/trained", ignore_errors=True)
    shutil.rmtree(folder / ".dvc/cache/runs", ignore_errors=True)
    with (folder / "repro.log").open("w") as log:
        process = subprocess.Popen(
            ["dvc", "repro", "train"],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    wait_for(lambda: len(list((folder / ".checkpoints").glob("*/step-*"))) >= 2)
    return process


def supervisor_of(folder):
    """Find the process that holds the run."""
    checkpoint = next((folder / ".checkpoints").glob("*/step-*"))
    return int(checkpoint.parent.with_suffix(".lock").read_text())


def interrupt_all(folder, process):
    """Ctrl-C in a terminal: every process of the group gets it."""
    os.killpg(process.pid, signal.SIGINT)


def kill_dvc(folder, process):
    process.kill()


def kill_supervisor(folder, process):
    os.kill(supervisor_of(folder), signal.SIGKILL)


def kill_group(folder, process):
    os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "fault",
    [
        interrupt_all,
        pytest.param(kill_dvc, marks=pytest.mark.exhaustive),
        pytest.param(kill_supervisor, marks=pytest.mark.exhaustive),
        pytest.param(kill_group, marks=pytest.mark.exhaustive),
    ],
)
def test_dvc_repro_goes_on_after_any_interruption(long_smoke, undisturbed, fault):
    process = start_repro(long_smoke)
    fault(long_smoke, process)
    assert process.wait(60) != 0
    assert not (long_smoke / "models/trained").exists()
    done = run(long_smoke, "dvc", "repro", "train")
    assert "resuming after step" in done.stdout + done.stderr
    assert sha256_file(long_smoke / "models/trained/adapters.safetensors") == undisturbed
    assert not list((long_smoke / ".checkpoints").glob("*/step-*"))


@pytest.mark.exhaustive
def test_a_changed_parameter_starts_afresh(long_smoke, undisturbed):
    process = start_repro(long_smoke)
    kill_group(long_smoke, process)
    process.wait()
    config = long_smoke / "conf/lora/default.yaml"
    config.write_text(config.read_text().replace("rank: 8", "rank: 3"))
    done = run(long_smoke, "dvc", "repro", "train")
    assert "resuming after step" not in done.stdout + done.stderr
    assert read(long_smoke, "train_machine")["recoveries"] == 0
    config.write_text(config.read_text().replace("rank: 3", "rank: 8"))
    done = run(long_smoke, "dvc", "repro", "train")
    assert "resuming after step" in done.stdout + done.stderr
    assert sha256_file(long_smoke / "models/trained/adapters.safetensors") == undisturbed


def append(folder, *modules):
    """Change modules without changing what they do."""
    for name in modules:
        path = folder / "pipeline/train" / name
        path.write_text(path.read_text() + "\nWORDING = 'changed'\n")


def test_code_that_keeps_or_foresees_a_run_may_change_and_code_that_computes_may_not(
    long_smoke, undisturbed
):
    process = start_repro(long_smoke)
    kill_group(long_smoke, process)
    process.wait()
    before = run(long_smoke, "dvc", "status", "train").stdout
    append(long_smoke, "supervise/supervisor.py", "plan/fit.py")
    assert run(long_smoke, "dvc", "status", "train").stdout == before
    append(long_smoke, "step.py")
    assert "pipeline/train/step.py" in run(long_smoke, "dvc", "status", "train").stdout
    refused = stage(long_smoke, "train", check=False)
    assert refused.returncode == 74
    assert "(code: pipeline/train/step.py)" in refused.stderr
    assert "continue with train.resume_allow_inexact=true" in refused.stderr
    run(long_smoke, "git", "checkout", "pipeline/train/step.py")
    done = run(long_smoke, "dvc", "repro", "train")
    assert "resuming after step" in done.stdout + done.stderr
    assert sha256_file(long_smoke / "models/trained/adapters.safetensors") == undisturbed
    assert read(long_smoke, "train")["inexact"] == []


@pytest.mark.exhaustive
def test_the_named_option_goes_on_with_other_code(long_smoke):
    process = start_repro(long_smoke)
    kill_group(long_smoke, process)
    process.wait()
    append(long_smoke, "step.py")
    options = "train.resume_allow_inexact=true", "hydra.run.dir=runs/inexact"
    done = stage(long_smoke, "train", *options)
    assert "resuming after step" in done.stdout + done.stderr
    metrics = json.loads((long_smoke / "runs/inexact/metrics/train.json").read_text())
    assert metrics["inexact"] == ["code: pipeline/train/step.py"]


@pytest.mark.exhaustive
def test_a_killed_queue_task_goes_on_in_the_next_run(long_smoke, undisturbed):
    run(long_smoke, "git", "reset", "--quiet", "--hard")
    shutil.rmtree(long_smoke / ".dvc/cache/runs", ignore_errors=True)
    queued = run(long_smoke, "dvc", "exp", "run", "--queue", "--name", "one", "-S", "lora.rank=5")
    assert "Queued experiment" in queued.stdout
    start = ["dvc", "queue", "start"]  # its worker keeps a pipe open, so that none may be read
    subprocess.run(start, cwd=long_smoke, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)
    wait_for(lambda: len(list((long_smoke / ".checkpoints").glob("*/step-*"))) >= 2)
    run(long_smoke, "dvc", "queue", "kill", "one")
    wait_for(lambda: not statuses_running(long_smoke))
    assert list((long_smoke / ".checkpoints").glob("*/step-*"))
    done = run(long_smoke, "dvc", "exp", "run", "-S", "lora.rank=5")
    assert "resuming after step" in done.stdout + done.stderr
    run(long_smoke, "dvc", "queue", "stop", "--kill", check=False)


def statuses_running(folder):
    """Tell whether a training of this repository is under way."""
    said = stage(folder, "train", "--status").stdout
    return any("train: step" in line and "not running" not in line for line in said.splitlines())
