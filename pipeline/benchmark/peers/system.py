"""Figures of this machine that need no other program: disk, preparation and reloads."""

import dataclasses
import itertools
import shutil
import subprocess
import time
from pathlib import Path

from pipeline.benchmark.peers.child import NotMeasured, failure
from pipeline.benchmark.peers.corpus import prepare_settings, write_rows
from pipeline.benchmark.peers.programs import OURS
from pipeline.benchmark.peers.rounds import Comparison
from pipeline.benchmark.peers.train_stage import overrides, run_train_stage
from pipeline.data.preparation.prepare import prepare
from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.device import mx
from pipeline.files import read_json
from pipeline.train.checkpoints.folder import Checkpoint, CheckpointFolder

MIB, MB = 1 << 20, 10**6
PREPARED_BYTES = 16 * MB
"""Bytes of text to prepare: so many that the time to start does not matter."""
RELOADS, STEPS_PER_RELOAD = 3, 4


def measure_system(comparison: Comparison) -> None:
    """Run each measurement; when one fails, the others still run."""
    for measure in (disk, preparation, reloads):
        comparison.say(f"{measure.__name__} ...")
        comparison.attempt(measure, OURS)
        comparison.keep()


def disk(comparison: Comparison) -> None:
    """Measure bytes a second of a durable and checked checkpoint, and of `dd` with fsync."""
    size = (comparison.material.model / "model.safetensors").stat().st_size
    values = mx.random.normal((max(1, size // 4),), key=mx.random.key(0))
    mx.eval(values)
    for number in range(1, comparison.num_rounds + 1):
        folder = comparison.folder / comparison.part / f"disk{number}"
        checkpoints = CheckpointFolder(folder / "checkpoints", keep=2)
        began = time.perf_counter()
        checkpoints.save(Checkpoint(number, {"values": values}, {}))
        rate = values.nbytes / (time.perf_counter() - began)
        comparison.record(OURS, number, write_bytes_per_second=rate)
        rate = dd_rate(folder / "zeros", size)
        comparison.record("dd", number, write_bytes_per_second=rate)
        shutil.rmtree(folder)


def dd_rate(path: Path, size: int) -> float:
    """Return the bytes per second that `dd` makes durable.

    Raises:
        NotMeasured: when there is no `dd`, or it fails.
    """
    blocks = max(1, size // MIB)
    program = shutil.which("dd")
    if program is None:
        raise NotMeasured("there is no dd on this machine")
    command = [program, "if=/dev/zero", f"of={path}", f"bs={MIB}", f"count={blocks}", "conv=fsync"]
    began = time.perf_counter()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise failure("dd", done)
    return blocks * MIB / (time.perf_counter() - began)


def preparation(comparison: Comparison) -> None:
    """Measure MB of text a second of the preparation, and of the tokenizer's batch call alone."""
    rows, texts, size = comparison.folder / comparison.part / "rows", list[str](), 0
    for number, text in enumerate(itertools.cycle(comparison.corpus.train)):
        if size >= PREPARED_BYTES:
            break
        texts.append(f"{text} {number}")  # no row twice
        size += len(texts[-1].encode())
    write_rows(rows / "train.jsonl", texts)
    write_rows(rows / "valid.jsonl", comparison.corpus.validation)
    tokenizer = load_tokenizer(comparison.material.model).backend_tokenizer
    shape = dataclasses.asdict(comparison.settings.model)
    for number in range(1, comparison.num_rounds + 1):
        folder = rows / f"prepared{number}"
        folder.mkdir()
        began = time.perf_counter()
        prepare(prepare_settings(rows, comparison.material.model, shape), folder)
        rate = size / MB / (time.perf_counter() - began)
        comparison.record(OURS, number, prepare_mb_per_second=rate)
        began = time.perf_counter()
        tokenizer.encode_batch(texts)
        rate = size / MB / (time.perf_counter() - began)
        comparison.record("encode_batch", number, prepare_mb_per_second=rate)
        shutil.rmtree(folder)


def reloads(comparison: Comparison) -> None:
    """Measure the seconds from the last step of a worker until the next worker is ready."""
    folder = comparison.folder / comparison.part / "reloads"
    common = overrides(comparison, STEPS_PER_RELOAD * (RELOADS + 1))
    interval = f"train.reload_interval_steps={STEPS_PER_RELOAD}"
    run_train_stage(folder, comparison.material, [*common, interval])
    few, rest = (
        read_json(folder / f"run/metrics/{name}.json") for name in ("machine", "train_machine")
    )
    seconds = rest["reload_seconds"] / max(1, few["reloads"])
    comparison.record(OURS, 1, reload_seconds=seconds)
