"""What every stage of the graph takes, so that none is refused after the training.

A stage's footprint is the sum of what it holds at once (docs/plan.md compares it with measured
ones); only the batches of `validate` and the steps of `benchmark` are traced.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.batches import PROOF_DOCUMENTS, PROOF_TOKENS
from pipeline.device import nn
from pipeline.errors import DeviceError, PipelineError, StorageError, report_problems
from pipeline.model.blueprint import blueprint
from pipeline.model.network.build import stored_dtype
from pipeline.model.network.tree import blocks, named_arrays, own_arrays
from pipeline.model.source.check import QUANTIZED
from pipeline.model.source.folder import read_config
from pipeline.train.memory import GB, MB
from pipeline.train.plan.predict import num_bytes, predict_benchmark, predict_validation
from pipeline.train.plan.report import Plan
from pipeline.train.plan.roofline import FLOAT32_BYTES, Shape
from pipeline.train.settings import evaluation_batch_tokens

TOKENIZER_BYTES = 30_000_000
"""What transformers and a tokenizer of 50,000 words take in the stages that generate text."""
WRITING_COPIES = 2
"""Times that the largest tensor is held while it is written: as read, and as fused."""
NUM_PROVEN = 4
"""Models whose logits an export computes: base, tuned, and one of each of two formats."""
CHECKPOINT_MARGIN = 1.2
"""Room that a save asks for, as a multiple of the checkpoint."""
EXTRA_CHECKPOINTS = 2
"""Those on the disk beyond `train.keep_checkpoints`: the best, and one being written."""


@dataclass(frozen=True)
class GraphRequest:
    """What the plan of the other stages needs beside that of the training.

    Attributes:
        keep_checkpoints: of the training, beside the best one.
        held_out_longest: tokens of the longest document that `validate` may measure.
        held_out_tokens: of all of them.
        run_folder: where checkpoints lie.
        outputs: where the stages write.
        is_fused: whether the export writes base and adapter as one model too.
    """

    keep_checkpoints: int
    held_out_longest: int
    held_out_tokens: int
    run_folder: Path
    outputs: Path
    is_fused: bool = False


@dataclass(frozen=True)
class StagePlan:
    """What one stage takes.

    Attributes:
        name: of the stage.
        memory_bytes: the footprint of its processes.
        disk_bytes: what it adds to the disk, the working files included.
        folder: on that disk.
        arithmetic: how the footprint is computed.
        remedy: what makes it smaller.
    """

    name: str
    memory_bytes: int
    disk_bytes: int
    folder: Path
    arithmetic: str
    remedy: str


def plan_graph(plan: Plan, others_bytes: int, asked: GraphRequest) -> list[StagePlan]:
    """Plan each stage from `weights` on.

    Args:
        plan: of the training.
        others_bytes: what the processes of the training hold that do not train.
        asked: what is known of the other stages.
    """
    config = read_config(plan.request.folder)
    plain = {name: value for name, value in config.items() if name not in QUANTIZED}
    model = blueprint(plain, "float32")
    return [
        weights_plan(plan, model, asked),
        train_plan(plan, others_bytes, asked),
        export_plan(plan, model, stored_dtype(config).size, asked),
        validate_plan(plan, asked),
        benchmark_plan(plan, asked),
    ]


def weights_plan(plan: Plan, model: nn.Module, asked: GraphRequest) -> StagePlan:
    """Plan the check of the base, tensor by tensor; a scratch base has a plan of its own."""
    largest = largest_tensor(model)
    return StagePlan(
        "weights",
        plan.process_bytes + plan.cache_bytes + largest + largest // FLOAT32_BYTES,
        0,
        asked.outputs,
        f"the process, MLX's cache, one tensor of up to {largest / GB:.3f} GB; a scratch base has "
        "a plan of its own",
        "Use a base with a smaller vocabulary.",
    )


def train_plan(plan: Plan, others_bytes: int, asked: GraphRequest) -> StagePlan:
    """Plan the training; saving takes no memory beyond that of a step."""
    checkpoint = plan.trained_bytes + plan.state_bytes
    count = asked.keep_checkpoints + EXTRA_CHECKPOINTS
    disk = int(CHECKPOINT_MARGIN * count * checkpoint) + 2 * plan.trained_bytes
    there = sum(file.stat().st_size for file in asked.run_folder.rglob("*") if file.is_file())
    return StagePlan(
        "train",
        plan.footprint_bytes + others_bytes,
        max(0, disk - there),
        asked.run_folder,
        f"footprint above, {others_bytes / GB:.3f} GB of its supervisor; {count} checkpoints",
        "Set train.keep_checkpoints lower, or train less of the model.",
    )


def export_plan(plan: Plan, model: nn.Module, itemsize: int, asked: GraphRequest) -> StagePlan:
    """Plan an export: weights one by one, then logits with the weights of one block in memory.

    Args:
        plan: of the training.
        model: the base in float32, not quantised, without weights.
        itemsize: bytes of a number of the fused model.
        asked: what is known of the stage.
    """
    tokens, shape = PROOF_DOCUMENTS * PROOF_TOKENS, plan.shape
    outside = num_bytes(own_arrays(model, inside_blocks=False))
    block = max(num_bytes(named_arrays(each.parameters())) for each in blocks(model))
    block += tokens * shape.kept_per_token() * FLOAT32_BYTES + score_bytes(shape)
    logits = tokens * shape.vocab_size * FLOAT32_BYTES
    writing = WRITING_COPIES * largest_tensor(model)
    numbers = num_bytes(named_arrays(model.parameters())) // FLOAT32_BYTES
    fused = numbers * itemsize if asked.is_fused else 0
    return StagePlan(
        "export",
        plan.process_bytes + plan.cache_bytes + max(outside + max(block, logits), writing),
        fused + plan.trained_bytes + (NUM_PROVEN - 1) * logits,
        asked.outputs,
        f"the process, MLX's cache, {outside / GB:.3f} GB outside of blocks, with one block "
        f"({block / GB:.3f} GB) or the logits of {tokens} tokens ({logits / GB:.3f} GB)",
        "Give more memory, or use a base with a smaller vocabulary.",
    )


def validate_plan(plan: Plan, asked: GraphRequest) -> StagePlan:
    """Plan a validation: one model, and a batch of held-out documents."""
    tokens = min(evaluation_batch_tokens(plan.shape.vocab_size), asked.held_out_tokens)
    peak = predict_validation(plan.request, asked.held_out_longest, tokens)
    remedy = "Set data.max_seq_len lower, or model.quantize_bits=4."
    return measuring_plan("validate", plan, asked, (peak, "one model and its batch"), remedy)


def benchmark_plan(plan: Plan, asked: GraphRequest) -> StagePlan:
    """Plan the steps of the benchmark, which are those of the training without a validation."""
    peak = predict_benchmark(plan.request)
    remedy = "Set train.grad_accumulation_steps higher, or train.grad_checkpoint=true."
    return measuring_plan("benchmark", plan, asked, (peak, "a step of the training"), remedy)


def measuring_plan(
    name: str, plan: Plan, asked: GraphRequest, held: tuple[int, str], remedy: str
) -> StagePlan:
    """Plan a stage that measures a model, and writes next to nothing.

    Args:
        name: of the stage.
        plan: of the training.
        asked: what decides the stages.
        held: the peak of MLX, in bytes, and what it is the peak of.
        remedy: what makes it less.
    """
    peak, what = held
    return StagePlan(
        name,
        plan.process_bytes + TOKENIZER_BYTES + peak + min(plan.cache_bytes, peak),
        0,
        asked.outputs,
        f"the process with a tokenizer, {what} ({peak / GB:.3f} GB), MLX's cache",
        remedy,
    )


def largest_tensor(model: nn.Module) -> int:
    """Return the bytes of the largest tensor."""
    return max(value.nbytes for value in named_arrays(model.parameters()).values())


def score_bytes(shape: Shape) -> int:
    """Count the bytes of the scores of attention in one block, for the rows of a proof."""
    return 2 * PROOF_DOCUMENTS * shape.num_heads * PROOF_TOKENS**2 * FLOAT32_BYTES


def require_graph_fits(stages: list[StagePlan], limit_bytes: int) -> None:
    """Refuse the graph where a stage does not fit into memory or onto its disk.

    Raises:
        DeviceError: with each of them, and what to change.
        StorageError: where it is only the disk that has too little room.
    """
    problems = list[str]()
    kind: type[PipelineError] = StorageError
    for stage in stages:
        free = shutil.disk_usage(existing(stage.folder)).free
        if stage.memory_bytes > limit_bytes:
            kind = DeviceError
            problems.append(
                f"{stage.name}: {stage.memory_bytes / GB:.3f} GB of memory are needed "
                f"({stage.arithmetic}), and {limit_bytes / GB:.3f} GB are allowed "
                f"(train.memory_limit_gb). {stage.remedy}"
            )
        if stage.disk_bytes > free:
            problems.append(
                f"{stage.name}: {stage.disk_bytes / MB:,.1f} MB are needed on the disk of "
                f"{stage.folder}, and {free / MB:,.1f} MB are free. Make room there. {stage.remedy}"
            )
    headline = "These stages do not fit, so the training is not started:"
    report_problems(kind, headline, problems, "`--plan` shows all stages.")


def existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    return folder if folder.exists() else existing(folder.parent)
