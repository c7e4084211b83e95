"""How fast a model trains and generates on this machine, and how fast it could train at most."""

import functools
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.batches import MicroBatch, RowLayout, arrange, resolve_arrangement
from pipeline.data.order import BatchOrder
from pipeline.data.store import TokenStore
from pipeline.device import (
    has_fused_attention,
    matmul_flops_per_second,
    mlx_memory,
    nn,
    num_cpu_streams,
    numerics_fingerprint,
    reset_peak_memory,
)
from pipeline.generate.greedy import generate_greedy
from pipeline.model.network.adapters import load_adapter, make_trainable
from pipeline.model.network.base import load_base
from pipeline.model.network.forward import checkpoint_blocks
from pipeline.model.network.upstream import TokenizerWrapper, load_tokenizer
from pipeline.optim.optimizer import OptimSettings, make_optimizer
from pipeline.train.plan.roofline import Shape, matrix_passes, shape_of
from pipeline.train.step import TrainStep

WARMUP_STEPS = 2


@dataclass(frozen=True)
class Workload:
    """The training steps and the generation that are timed.

    Attributes:
        batch_size: documents a step; None: `batch_tokens` counts.
        batch_tokens: tokens a step; None: `batch_size` counts.
        arrangement: `data.arrangement`.
        seed: of the order of the documents.
        grad_accumulation_steps: micro-batches a step.
        grad_checkpoint: whether blocks are recomputed in the backward pass.
        num_steps: timed steps of a run.
        num_runs: repetitions.
        prompt_tokens: length of the prompt.
        generated_tokens: length of the continuation.
    """

    batch_size: int | None
    batch_tokens: int | None
    arrangement: str
    seed: int
    grad_accumulation_steps: int
    grad_checkpoint: bool
    num_steps: int
    num_runs: int
    prompt_tokens: int
    generated_tokens: int


def training_speed(model: nn.Module, store: TokenStore, work: Workload) -> dict[str, float]:
    """Time training steps of a trainable model.

    Returns:
        Medians over the runs, in tokens and targets a second, seconds and bytes. Padding is not
        counted as a token. A target is a token whose loss counts. Occupancy is the share of the
        batches that is not padding.
    """
    order = BatchOrder(
        store.lengths, batch_size=work.batch_size, batch_tokens=work.batch_tokens, seed=work.seed
    )
    if work.grad_checkpoint:
        checkpoint_blocks(model)
    optim = OptimSettings(learning_rate=1e-4, weight_decay=0.0, warmup_fraction=0.0)
    optimizer = make_optimizer(optim, work.num_steps)
    optimizer.init(model.trainable_parameters())
    train_step = TrainStep(model, optimizer, max_grad_norm=1.0)
    laid_out = functools.partial(step_micro_batches, store, order, work)
    numbers = range(1, WARMUP_STEPS + work.num_steps + 1)
    model.train()
    timed_steps(train_step, laid_out, numbers[:WARMUP_STEPS])
    reset_peak_memory()
    numbers = numbers[WARMUP_STEPS:]
    seconds = [timed_steps(train_step, laid_out, numbers) for _ in range(work.num_runs)]
    timed = [batch for number in numbers for each in laid_out(number) for batch in each]
    targets = sum(batch.num_targets for batch in timed)
    tokens = sum(batch.num_tokens for batch in timed)
    median = statistics.median(seconds)
    return {
        "train_targets_per_second": targets / median,
        "train_tokens_per_second": tokens / median,
        "train_step_seconds": median / work.num_steps,
        "train_occupancy": tokens / sum(batch.inputs.size for batch in timed),
        "train_peak_memory_bytes": mlx_memory().peak_bytes,
    }


def step_micro_batches(
    store: TokenStore, order: BatchOrder, work: Workload, step: int
) -> list[MicroBatch]:
    """Arrange the documents of one step in micro-batches."""
    width = int(store.lengths.max())
    documents = order.documents(step)
    return arrange(
        store,
        documents,
        RowLayout(resolve_arrangement(work.arrangement, has_fused_attention()), width),
        num_micro_batches=min(work.grad_accumulation_steps, len(documents)),
        num_streams=num_cpu_streams(),
    )


def timed_steps(
    train_step: TrainStep, laid_out: Callable[[int], list[MicroBatch]], numbers: Iterable[int]
) -> float:
    """Return the seconds that some steps take, as in a training: laying out batches included.

    Args:
        train_step: updates the model.
        laid_out: returns the micro-batches of a step.
        numbers: of the steps, from 1 on.
    """
    started = time.perf_counter()
    for number in numbers:
        train_step(laid_out(number))
    return time.perf_counter() - started


def generation_speed(
    model: nn.Module, tokenizer: TokenizerWrapper, store: TokenStore, work: Workload
) -> dict[str, float]:
    """Time greedy generation after a prompt of tokens from the store.

    Returns:
        Medians over the runs. The rate is that of decoding: the tokens after the first one, divided
        by the time after the first one.
    """
    prompt = np.concatenate([store.tokens(index) for index in range(min(len(store), 64))])
    ids = np.resize(prompt, work.prompt_tokens).tolist()
    generate_greedy(model, tokenizer, ids, 2, endless=True)
    runs = [
        generate_greedy(model, tokenizer, ids, work.generated_tokens, endless=True)
        for _ in range(work.num_runs)
    ]
    return {
        "generation_tokens_per_second": statistics.median(run.tokens_per_second for run in runs),
        "time_to_first_token_seconds": statistics.median(run.first_token_seconds for run in runs),
        "generated_tokens": len(runs[0].token_ids),
    }


def roofline(shape: Shape, tokens_per_second: float) -> dict[str, float]:
    """Compare the rate of training with that of plain matrix products, measured in the same run.

    With P weights a token costs 2P floating-point operations in the forward pass, 2P for the
    gradient of the activations, and 2P for the gradient of the weights where these are trained.
    The bound leaves out adapters and attention.

    Args:
        shape: of the model.
        tokens_per_second: the rate of training.
    """
    rate = matmul_flops_per_second()
    flops_per_token = 2 * matrix_passes(shape)
    return {
        "gemm_gflops_per_second": rate / 1e9,
        "roofline_tokens_per_second": rate / flops_per_token,
        "roofline_share": tokens_per_second * flops_per_token / rate,
    }


def machine() -> dict[str, Any]:
    """Describe the machine on which the figures were measured."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **numerics_fingerprint(),
    }


def benchmark(
    base: Path, trained: Path, prepared: Path, dtype: str, work: Workload
) -> dict[str, Any]:
    """Time training and generation of the tuned model, and measure the bound of training.

    Args:
        base: models/base.
        trained: models/trained.
        prepared: data/prepared.
        dtype: `model.dtype`.
        work: what to time.
    """
    loaded = load_base(base, dtype)
    store = TokenStore(prepared / "train")
    tokenizer = load_tokenizer(base)
    adapter = load_adapter(loaded.model, trained)
    generation = generation_speed(loaded.model, tokenizer, store, work)
    make_trainable(loaded.model, adapter)
    training = training_speed(loaded.model, store, work)
    return {
        **training,
        **generation,
        **roofline(
            shape_of(loaded.model, loaded.config, "lora_parameters" not in adapter),
            training["train_tokens_per_second"],
        ),
        "machine": machine(),
    }


def comparison_rows(metrics: dict[str, Any]) -> list[tuple[str, str, str, int, float]]:
    """Return the rate of training and its bound as rows of plots/peers.csv."""
    rates = {"ours": "train_tokens_per_second", "machine": "roofline_tokens_per_second"}
    return [("alone", "tokens_per_second", name, 1, metrics[key]) for name, key in rates.items()]
