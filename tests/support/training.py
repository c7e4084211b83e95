"""Supervised trainings as processes of their own, to be killed, stopped and compared."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from pipeline.data.store import TokenStoreWriter
from pipeline.files import sha256_file
from pipeline.machine import footprint_bytes
from pipeline.model.network.base import write_manifest
from pipeline.model.scratch import initialize, llama_config, save_scratch
from pipeline.train.checkpoints.series import split_metrics
from pipeline.train.protocol import RunSpec
from pipeline.train.supervise.journal import Journal
from tests.support.drive import parameters
from tests.support.small import ROOT, TINY_SHAPE, random_documents

DEADLINE_SECONDS = 120


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A base model and prepared data, as the stages before leave them."""
    folder = tmp_path_factory.mktemp("world")
    for name, count, seed in (("train", 40, 0), ("validation", 8, 9), ("test", 0, 0)):
        with TokenStoreWriter(folder / "prepared" / name, 64) as writer:
            for index, (ids, mask) in enumerate(random_documents(count, seed)):
                provenance = (0.9, 1.0) if index % 4 == 0 else (0.1, 6.0)
                writer.add(ids, mask, *provenance)
    config = llama_config(TINY_SHAPE, 64, {"bos_token_id": 1, "eos_token_id": 2})
    base = folder / "base"
    base.mkdir()
    save_scratch(initialize(config, seed=0), config, base)
    write_manifest(base, base, "scratch", "0")
    return folder


@pytest.fixture(scope="session")
def real_world(samples, tmp_path_factory):
    """A pretrained model and real rows, as the stages before leave them."""
    folder = tmp_path_factory.mktemp("real")
    rows = tmp_path_factory.mktemp("rows")
    for name in ("train", "valid"):
        lines = (samples / f"data/wikisql/{name}.jsonl").read_text().splitlines(keepends=True)
        (rows / f"{name}.jsonl").write_text("".join(lines[:60]))
    model = ["model=local", f"model.source={samples / 'models/stories260K'}"]
    for stage, *own in (("prepare", "data=jsonl", f"data.path={rows}"), ("weights",)):
        command = [sys.executable, "-m", f"stages.{stage}", *model, *own]
        places = [f"inputs={folder}", f"hydra.run.dir={folder}"]
        subprocess.run([*command, *places], cwd=ROOT, check=True, capture_output=True)
    (folder / "data/prepared").rename(folder / "prepared")
    (folder / "models/base").rename(folder / "base")
    return folder


class Training:
    """A supervised run in processes of its own."""

    def __init__(self, world, folder, settings, changes, code=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.world, self.folder, self.settings, self.changes = world, folder, settings, changes
        self.process, self.code = None, code or {}
        self.deadline_seconds = DEADLINE_SECONDS
        self.move_to(folder)

    def move_to(self, place):
        """Let checkpoints lie somewhere else."""
        self.run, self.output, self.file = place / "run", self.folder / "out", self.folder / "drive"
        spec = RunSpec(
            title="train",
            kind="finetune",
            parameters=parameters(**self.changes),
            base=str(self.world / "base"),
            prepared=str(self.world / "prepared"),
            run_folder=str(self.run),
            output=str(self.output),
            activations=str(place / "prefix"),
            code=self.code,
        )
        given = {"spec": dataclasses.asdict(spec), "settings": self.settings}
        self.file.write_text(json.dumps(given))

    def start(self, **environment):
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.drive", str(self.file)],
                cwd=ROOT,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
                stderr=log,
            )
        return self

    def end(self):
        return self.process.wait(self.deadline_seconds)

    def text(self):
        return (self.folder / "log").read_text()

    def complete(self, **environment):
        assert self.start(**environment).end() == 0, self.text()
        return self

    def newest_step(self):
        return max((int(path.name[5:]) for path in self.run.glob("step-*")), default=-1)

    def wait_for_step(self, step):
        self.wait_until(lambda: self.newest_step() >= step)

    def wait_until(self, condition):
        """Wait for a condition; give what it was."""
        deadline = time.monotonic() + self.deadline_seconds
        while not (found := condition()):
            assert self.process.poll() is None, f"ended too early\n{self.text()}"
            assert time.monotonic() < deadline, f"waited too long\n{self.text()}"
            time.sleep(0.002)
        return found

    def most_held(self, until=float("inf")):
        """Sample what all processes hold, until they end or hold that much; give the maximum."""
        most = 0
        while self.process.poll() is None and most <= until:
            pids = [self.process.pid, *(worker.pid for worker in self.workers())]
            most = max(most, sum(map(footprint_bytes, pids)))
            time.sleep(0.005)
        return most

    def workers(self):
        """The worker that trains, then the stand-by."""
        try:
            return psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []

    def result(self):
        """All that must not depend on what happened on the way."""
        steps = self.metrics()["num_steps"]
        rows = list(csv.DictReader((self.run / "train.csv").read_text().splitlines()))
        assert len(rows) == steps
        files = [self.run / f"step-{steps:08d}/arrays.safetensors", *self.output.rglob("*.*")]
        return (
            {path.name + path.parent.name[:4]: sha256_file(path) for path in files},
            rows,
            (self.run / "validation.csv").read_text(),
            split_metrics(self.metrics())[0],
        )

    def metrics(self):
        return json.loads((self.run / "metrics.json").read_text())

    def journal(self, what):
        return [entry for entry in Journal(self.run).entries() if entry["what"] == what]


@pytest.fixture
def training(world, tmp_path):
    """Make a training; end what is left of it when the test is over."""
    made = []

    def make(name="run", settings=None, code=None, **changes):
        made.append(Training(world, tmp_path / name, settings or {}, changes, code))
        return made[-1]

    yield make
    for one in made:
        if one.process and one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture(scope="session")
def undisturbed(world, tmp_path_factory):
    """Give the result of a run that nothing disturbs."""
    known = {}

    def result(**changes):
        key = json.dumps(changes, sort_keys=True)
        if key not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            done = Training(world, folder, {}, changes).complete()
            assert (done.metrics()["reloads"], done.metrics()["recoveries"]) == (0, 0)
            known[key] = done.result()
        return known[key]

    return result
