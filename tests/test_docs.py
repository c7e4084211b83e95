"""Each command of README.md and docs/ runs, in a copy of the repository with small settings.

tests/test_house.py checks that all of them parse; these are run, in the order of the documents.
"""

import json
import shlex
from fnmatch import fnmatch

import pytest

from tests.support.documents import documented_commands
from tests.support.repository import run

pytestmark = pytest.mark.docs

NOT_RUN = {
    "make *": "makes an environment; continuous integration calls these targets",
    "source *": "the tests run inside the environment",
    "python -m tests.support.ablation *": "takes minutes for each seed",
    "python -m stages.benchmark benchmark=peers": "takes half an hour; the smallest one is run",
    "python -m stages.benchmark benchmark=peers 'benchmark.peers.parts=*": "takes minutes",
}
ROWS = [{"text": "We measured 3.2 m at the gate on 4 May 1911."}, {"text": "Experts agree."}]
QUESTIONS = [{"ask": f"What is {n} + {n}?", "reply": f" It is {2 * n}."} for n in range(99)]


def is_run(command):
    return not any(fnmatch(command, pattern) for pattern in NOT_RUN)


@pytest.fixture(scope="module")
def folder(smoke):
    """A small repository, with the files that commands name."""
    for name, rows in (("rows", ROWS), ("questions", QUESTIONS)):
        (smoke / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return smoke


@pytest.fixture
def with_samples(request):
    """Put real rows and a real model where a document says FOLDER."""

    def filled(words):
        if any("=FOLDER" in word for word in words):
            samples = request.getfixturevalue("samples")
            rows, model = samples / "data/wikisql", samples / "models/stories260K"
            words = [word.replace("model.source=FOLDER", f"model.source={model}") for word in words]
            words = [word.replace("=FOLDER_OR_FILE", f"={rows}") for word in words]
            words = [word.replace("=FOLDER", f"={rows}") for word in words]
        if any("huggingface" in word for word in words):
            pytest.importorskip(
                "datasets", reason="datasets is absent: uv sync --extra huggingface"
            )
        return words

    return filled


def newest_run(folder):
    """Return the newest run by hand that has trained the model of the repository."""
    runs = [path.parents[2] for path in folder.glob("runs/train/20*/models/trained/*.safetensors")]
    of_ours = [run for run in runs if "model=" not in (run / ".hydra/overrides.yaml").read_text()]
    return str(max(of_ours, default=""))


@pytest.mark.parametrize("command", list(filter(is_run, documented_commands())))
def test_a_command_of_the_documents_runs(folder, with_samples, command):
    command = command.replace("runs/train/TIME", newest_run(folder))
    run(folder, *with_samples(shlex.split(command)))
    if command.startswith("dvc"):  # an experiment leaves its parameters and outputs
        run(folder, "git", "checkout", "--quiet", "--", ".")
        run(folder, "dvc", "checkout", "--quiet")


def test_commands_that_are_not_run_stand_in_the_documents():
    commands = documented_commands()
    for pattern in NOT_RUN:
        assert [command for command in commands if fnmatch(command, pattern)], pattern
