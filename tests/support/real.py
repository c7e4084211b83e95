"""One run of the whole graph on a real model and real rows, shared by the tests that look at it."""

import fcntl
import os

import pytest

from tests.support.repository import STAGES, fresh_clone, ran, run

NUM_STEPS = 100
STORY = "Once upon a time"


def run_graph(samples, folder, num_steps):
    """Fine-tune the stories model on WikiSQL in a new repository."""
    fresh_clone(folder)
    overrides = {
        "data": "jsonl",
        "data.path": samples / "data/wikisql",
        "model": "local",
        "model.source": samples / "models/stories260K",
        "train.num_steps": num_steps,
        "train.validation_documents": 32,
        "validate.documents": 32,
        "validate.num_samples": 2,
        "validate.sample_prompts": f"['{STORY}']",
        "export.formats": "[adapter,fused]",
    }
    arguments = [item for key, value in overrides.items() for item in ("-S", f"{key}={value}")]
    assert ran(run(folder, "dvc", "exp", "run", *arguments)) == list(STAGES)
    return folder


@pytest.fixture(scope="session")
def real_run(samples, tmp_path_factory):
    """The repository after a run of NUM_STEPS steps; the processes of pytest share one."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder, done = shared / "real", shared / "real.done"
    with (shared / "real.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            run_graph(samples, folder, NUM_STEPS)
            done.touch()
    return folder
