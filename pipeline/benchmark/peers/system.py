"""What stands around the steps: disk, preparation, reloads, DVC itself, and how steps grow."""

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from pipeline.benchmark.peers.corpus import prepare_settings, write_rows
from pipeline.benchmark.peers.growth import growth
from pipeline.benchmark.peers.programs import OURS, SHOWN_CHARACTERS, NotMeasured
from pipeline.benchmark.peers.rounds import Contest
from pipeline.benchmark.peers.train_stage import lay_out_inputs, overrides, run_train_stage
from pipeline.config.stage import dvc_stages, output_names
from pipeline.data.prepare import prepare
from pipeline.device import mx
from pipeline.errors import PipelineError
from pipeline.files import ROOT, read_json
from pipeline.train.checkpoints.folder import Checkpoint, CheckpointFolder

PART = "surroundings"
MIB, MB = 1 << 20, 10**6
PREPARED_BYTES = 16 * MB
"""Of rows for the preparation: enough that its start does not count."""
RELOADS, STEPS_PER_RELOAD = 3, 4
TEXT_OUTPUT = {".json": "{}", ".csv": "step"}
"""What a stand-in for a stage writes, because DVC reads it."""


def surroundings(contest: Contest) -> None:
    """Measure each; one that fails leaves the others."""
    measures: list[Callable[[Contest], None]] = [
        disk,
        preparation,
        reloads,
        idle_repro,
        growth,
    ]
    for measure in measures:
        title = (measure.__doc__ or "").splitlines()[0].partition(":")[0]
        contest.say(f"{title} ...")
        try:
            measure(contest)
        except (NotMeasured, PipelineError) as reason:
            contest.board.miss(PART, OURS, str(reason))
            contest.say(f"{title}: {reason}")
        contest.keep()


def disk(contest: Contest) -> None:
    """Checkpoints: bytes a second until they are durable and checked, beside `dd` with fsync."""
    size = (contest.material.model / "model.safetensors").stat().st_size
    values = mx.random.normal((max(1, size // 4),), key=mx.random.key(0))
    mx.eval(values)
    for number in range(1, contest.num_rounds + 1):
        folder = contest.folder / PART / f"disk{number}"
        checkpoints = CheckpointFolder(folder / "checkpoints", keep=2)
        began = time.perf_counter()
        checkpoints.save(Checkpoint(number, {"values": values}, {}))
        rate = values.nbytes / (time.perf_counter() - began)
        contest.board.add(PART, "write_bytes_per_second", OURS, number, rate)
        rate = dd_rate(folder / "zeros", size)
        contest.board.add(PART, "write_bytes_per_second", "dd", number, rate)
        shutil.rmtree(folder)


def dd_rate(path: Path, size: int) -> float:
    """Give the bytes per second that `dd` makes durable.

    Raises:
        NotMeasured: when there is no `dd`.
    """
    blocks = max(1, size // MIB)
    program = shutil.which("dd")
    if program is None:
        raise NotMeasured("there is no dd on this machine")
    command = [program, "if=/dev/zero", f"of={path}", f"bs={MIB}", f"count={blocks}"]
    began = time.perf_counter()
    finished(subprocess.run([*command, "conv=fsync"], capture_output=True, check=False))
    return blocks * MIB / (time.perf_counter() - began)


def preparation(contest: Contest) -> None:
    """Preparation: MB of JSONL a second, and a second of processor time, threads counted."""
    rows, texts, size = contest.folder / PART / "rows", list[str](), 0
    for number, text in enumerate(itertools.cycle(contest.corpus.train)):
        if size >= PREPARED_BYTES:
            break
        texts.append(f"{text} {number}")  # no row twice
        size += len(texts[-1].encode())
    write_rows(rows / "train.jsonl", texts)
    write_rows(rows / "valid.jsonl", contest.corpus.validation)
    size = (rows / "train.jsonl").stat().st_size
    shape = dataclasses.asdict(contest.settings.model)
    for number in range(1, contest.num_rounds + 1):
        folder = rows / f"prepared{number}"
        folder.mkdir()
        began, used = time.perf_counter(), time.process_time()
        prepare(prepare_settings(rows, contest.material.model, shape), folder)
        rate = size / MB / (time.perf_counter() - began)
        contest.board.add(PART, "prepare_mb_per_second", OURS, number, rate)
        per_core = size / MB / (time.process_time() - used)
        contest.board.add(PART, "prepare_mb_per_second_and_core", OURS, number, per_core)
        shutil.rmtree(folder)


def reloads(contest: Contest) -> None:
    """Reloads: seconds from the last step of a process to the next one that is ready."""
    folder = contest.folder / PART / "reloads"
    inputs = lay_out_inputs(folder / "inputs", contest.material)
    common = overrides(contest, STEPS_PER_RELOAD * (RELOADS + 1))
    interval = f"train.reload_interval_steps={STEPS_PER_RELOAD}"
    run_train_stage(folder, inputs, [*common, interval])
    metrics = read_json(folder / "run/metrics/machine.json")
    seconds = metrics["reload_seconds"] / max(1, metrics["reloads"])
    contest.board.add(PART, "reload_seconds", OURS, 1, seconds)


def idle_repro(contest: Contest) -> None:
    """DVC: seconds of a `dvc repro` that has nothing to do.

    Of this very graph, with its dependencies and parameters, in a folder where stand-ins have
    written small outputs.
    """
    folder = contest.folder / PART / "dvc"
    stand_in_graph(folder)
    dvc(folder, "init", "--no-scm", "--quiet")
    dvc(folder, "repro", "--quiet")
    for number in range(1, contest.num_rounds + 1):
        began = time.perf_counter()
        dvc(folder, "repro", "--quiet")
        seconds = time.perf_counter() - began
        contest.board.add(PART, "idle_repro_seconds", OURS, number, seconds)


def stand_in_graph(folder: Path) -> None:
    """Copy the graph and the code it depends on; each stage only touches what it would write."""
    stages = dvc_stages()
    written = [name for description in stages.values() for name in output_names(description)]
    for name, description in stages.items():
        for dependency in description["deps"]:
            if dependency not in written:
                copy(ROOT / dependency, folder / dependency)
        if name != "params":
            description["cmd"] = " && ".join(map(touch, output_names(description)))
    stages["params"]["cmd"] = "true"  # its output persists
    copy(ROOT / "params.yaml", folder / "params.yaml")
    text = yaml.safe_dump({"stages": stages}, sort_keys=False)
    (folder / "dvc.yaml").write_text(text, encoding="utf-8")


def touch(output: str) -> str:
    """Give the command that makes an output with next to nothing in it."""
    path = Path(output)
    if not path.suffix:
        return f"mkdir -p {output} && touch {output}/.made"
    return f"mkdir -p {path.parent} && echo '{TEXT_OUTPUT.get(path.suffix, '')}' > {output}"


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder to where there may be no folder yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def dvc(folder: Path, *arguments: str) -> None:
    """Run DVC in a folder, as if no other DVC had started us.

    Raises:
        NotMeasured: when it fails.
    """
    environment = {name: value for name, value in os.environ.items() if name[:4] != "DVC_"}
    command = [sys.executable, "-m", "dvc", *arguments]
    environment |= {"DVC_NO_ANALYTICS": "1"}
    finished(subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False))


def finished(done: subprocess.CompletedProcess[bytes]) -> None:
    """Refuse a command that failed.

    Raises:
        NotMeasured: with the last it said.
    """
    if done.returncode:
        last = (done.stdout + done.stderr)[-SHOWN_CHARACTERS:].decode(errors="replace")
        raise NotMeasured(f"{done.args} ended with {done.returncode}: {' '.join(last.split())}")
