"""Measurements apart from other programs: disk, preparation, reloads, and how steps scale."""

import dataclasses
import itertools
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.benchmark.peers.child import NotMeasured, failure
from pipeline.benchmark.peers.corpus import prepare_settings, write_rows
from pipeline.benchmark.peers.job import SCALE, TARGETS
from pipeline.benchmark.peers.programs import OURS
from pipeline.benchmark.peers.results import slope
from pipeline.benchmark.peers.rounds import Comparison
from pipeline.benchmark.peers.train_stage import lay_out_inputs, overrides, run_train_stage
from pipeline.benchmark.throughput import Workload, training_speed
from pipeline.data.preparation.prepare import prepare
from pipeline.data.store import TokenStore, TokenStoreWriter
from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.device import mx
from pipeline.errors import PipelineError
from pipeline.files import read_json
from pipeline.model.adapters import AdapterSettings, apply
from pipeline.model.scratch import initialize, llama_config
from pipeline.train.checkpoints.folder import Checkpoint, CheckpointFolder

PART = "surroundings"
MIB, MB = 1 << 20, 10**6
PREPARED_BYTES = 16 * MB
"""Bytes of rows for the preparation: enough that its start does not count."""
RELOADS, STEPS_PER_RELOAD = 3, 4
ROW_TOKENS = (64, 128, 256)
DIVISORS = (4, 2, 1)
"""Divisors of the number of blocks and of the vocabulary."""
SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": 2}


def measure_system(comparison: Comparison) -> None:
    """Run each measurement; when one fails, the others still run."""
    measures: list[Callable[[Comparison], None]] = [
        disk,
        preparation,
        reloads,
        growth,
    ]
    for measure in measures:
        title = (measure.__doc__ or "").splitlines()[0].partition(":")[0]
        comparison.say(f"{title} ...")
        try:
            measure(comparison)
        except (NotMeasured, PipelineError) as reason:
            comparison.results.note_missing(PART, OURS, str(reason))
            comparison.say(f"{title}: {reason}")
        comparison.keep()


def disk(comparison: Comparison) -> None:
    """Checkpoints: bytes a second until durable and checked, compared with `dd` and fsync."""
    size = (comparison.material.model / "model.safetensors").stat().st_size
    values = mx.random.normal((max(1, size // 4),), key=mx.random.key(0))
    mx.eval(values)
    for number in range(1, comparison.num_rounds + 1):
        folder = comparison.folder / PART / f"disk{number}"
        checkpoints = CheckpointFolder(folder / "checkpoints", keep=2)
        began = time.perf_counter()
        checkpoints.save(Checkpoint(number, {"values": values}, {}))
        rate = values.nbytes / (time.perf_counter() - began)
        comparison.results.add(PART, "write_bytes_per_second", OURS, number, rate)
        rate = dd_rate(folder / "zeros", size)
        comparison.results.add(PART, "write_bytes_per_second", "dd", number, rate)
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
    """Preparation: MB of text a second, next to the tokenizer library's batch call alone."""
    rows, texts, size = comparison.folder / PART / "rows", list[str](), 0
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
        comparison.results.add(PART, "prepare_mb_per_second", OURS, number, rate)
        began = time.perf_counter()
        tokenizer.encode_batch(texts)
        rate = size / MB / (time.perf_counter() - began)
        comparison.results.add(PART, "prepare_mb_per_second", "encode_batch", number, rate)
        shutil.rmtree(folder)


def reloads(comparison: Comparison) -> None:
    """Reloads: seconds from the last step of a process until the next process is ready."""
    folder = comparison.folder / PART / "reloads"
    inputs = lay_out_inputs(folder / "inputs", comparison.material)
    common = overrides(comparison, STEPS_PER_RELOAD * (RELOADS + 1))
    interval = f"train.reload_interval_steps={STEPS_PER_RELOAD}"
    run_train_stage(folder, inputs, [*common, interval])
    metrics = read_json(folder / "run/metrics/machine.json")
    seconds = metrics["reload_seconds"] / max(1, metrics["reloads"])
    comparison.results.add(PART, "reload_seconds", OURS, 1, seconds)


def growth(comparison: Comparison) -> None:
    """Growth: the power with which the time of a step grows with each size, all else equal.

    1 is proportional. Below 1, a part of the time does not depend on the size; above 1, a part
    grows with its square.
    """
    shape = dataclasses.asdict(comparison.settings.model)
    middle = ROW_TOKENS[1]
    blocks = [max(1, shape["num_hidden_layers"] // divisor) for divisor in DIVISORS]
    vocabularies = [max(4, shape["vocab_size"] // divisor) for divisor in DIVISORS]
    series = {
        "tokens": [(size, shape, size) for size in ROW_TOKENS],
        "blocks": [(size, shape | {"num_hidden_layers": size}, middle) for size in blocks],
        "vocabulary": [(size, shape | {"vocab_size": size}, middle) for size in vocabularies],
    }
    for name, points in series.items():
        for number in range(1, comparison.num_rounds + 1):
            seconds = [step_seconds(comparison, other, tokens) for _, other, tokens in points]
            sizes = [size for size, _, _ in points]
            comparison.results.add(PART, f"slope_with_{name}", OURS, number, slope(sizes, seconds))


def step_seconds(comparison: Comparison, shape: dict[str, Any], row_tokens: int) -> float:
    """Time a step of random rows of one length."""
    config = llama_config(shape, shape["vocab_size"], SPECIAL_IDS)
    model = initialize(config, comparison.seed)
    rank, batch_size = comparison.settings.rank, comparison.settings.batch_size
    apply(model, AdapterSettings("lora", rank, SCALE * rank, 0.0, None, TARGETS), comparison.seed)
    store = random_store(comparison.folder / PART / "random", shape["vocab_size"], row_tokens)
    work = Workload(batch_size, None, "bucketed", comparison.seed, 1, 1, 1, 2)
    seconds = training_speed(model, store, work)["train_step_seconds"]
    mx.clear_cache()
    return seconds


def random_store(folder: Path, vocab_size: int, row_tokens: int) -> TokenStore:
    """Write 64 rows of random tokens, with `row_tokens` targets each."""
    generator = np.random.default_rng(0)
    mask = np.arange(row_tokens + 1) > 0
    with TokenStoreWriter(folder, vocab_size) as writer:
        for _ in range(64):
            ids = generator.integers(0, vocab_size, row_tokens + 1).astype(np.int32)
            writer.add(ids, mask, None, None)
    return TokenStore(folder)
