"""The program with torch and peft: rows are padded to the longest of their batch, as is usual.

Both libraries are optional, so they are imported by name when a job runs.
"""

import importlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.benchmark.peers.job import (
    BETAS,
    EPS,
    SCALE,
    TARGETS,
    WEIGHT_DECAY,
    Job,
    Outcome,
    answer,
)
from pipeline.data.tokenize.tokenizer import load_tokenizer

IGNORED = -100
"""The label that torch's cross-entropy ignores."""


def adapted_model(job: Job) -> Any:  # noqa: ANN401
    """Load the model with transformers, and add LoRA."""
    torch, peft = importlib.import_module("torch"), importlib.import_module("peft")
    transformers = importlib.import_module("transformers")
    torch.manual_seed(job.seed)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        job.model,
        dtype=getattr(torch, job.dtype),
        local_files_only=True,
        trust_remote_code=False,
    )
    num_blocks = base.config.num_hidden_layers
    first = num_blocks - (num_blocks if job.num_layers is None else job.num_layers)
    config = peft.LoraConfig(
        r=job.rank,
        lora_alpha=SCALE * job.rank,
        lora_dropout=0.0,
        target_modules=[name.rpartition(".")[2] for name in TARGETS],
        layers_to_transform=list(range(first, num_blocks)),
    )
    return peft.get_peft_model(base, config)


def token_rows(job: Job) -> list[list[int]]:
    """Tokenize the rows, each followed by the end-of-sequence token."""
    tokenizer = load_tokenizer(Path(job.model))
    lines = (Path(job.rows) / "train.jsonl").read_text(encoding="utf-8").splitlines()
    end = tokenizer.convert_tokens_to_ids(str(tokenizer.eos_token))
    assert isinstance(end, int)
    return [[*tokenizer.encode(json.loads(line)["text"]), end] for line in lines]


def batches(rows: list[list[int]], job: Job) -> Iterator[list[list[int]]]:
    """Shuffle the rows each epoch, and cut them into batches."""
    generator = np.random.default_rng(job.seed)
    while True:
        order = generator.permutation(len(rows))
        for start in range(0, len(rows) - job.batch_size + 1, job.batch_size):
            yield [rows[index] for index in order[start : start + job.batch_size]]


def train(job: Job) -> Outcome:
    """Train, and time each step. The making of its batch is not timed."""
    torch, model = importlib.import_module("torch"), adapted_model(job)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=job.learning_rate, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY
    )
    model.train()
    seconds, num_targets = list[float](), list[int]()
    source = batches(token_rows(job), job)
    for _ in range(job.num_steps):
        rows = next(source)
        width = max(map(len, rows))
        inputs = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        began = time.perf_counter()
        labels = inputs.masked_fill(mask == 0, IGNORED)
        loss = model(input_ids=inputs, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - began)
        num_targets.append(sum(len(row) - 1 for row in rows))
    return Outcome(seconds, num_targets)


if __name__ == "__main__":
    answer(train)
