"""The memory plan of a training, made before any weights are loaded.

Bytes are predicted from `config.json` alone (`predict.py`); a GB is 1e9 bytes.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

from pipeline.device import cache_limit_bytes, mlx_memory
from pipeline.machine import footprint_bytes
from pipeline.model.blueprint import GROUP_SIZE
from pipeline.model.quantize import quantizable
from pipeline.model.source.folder import read_config
from pipeline.objective.chunked_head import CHUNK_COPIES
from pipeline.train.memory import GB
from pipeline.train.plan.liveness import Saved
from pipeline.train.plan.predict import (
    FORWARD_BACKWARD,
    Prediction,
    is_score,
    predict,
)
from pipeline.train.plan.request import PlanRequest
from pipeline.train.plan.roofline import (
    FLOAT32_BYTES,
    Shape,
    floor_bytes,
    step_flops,
)

BASE_BITS = 4
"""Bits of a weight where quantising the base is proposed."""


@dataclass(frozen=True)
class Row:
    """One line of the plan: a number of bytes, and how it is computed."""

    name: str
    num_bytes: int
    arithmetic: str


@dataclass(frozen=True)
class Plan:
    """The memory that a training takes, and its operations.

    Attributes:
        request: what is to be trained.
        rows: the parts of the peak, the peak of each evaluation, and what follows from them.
        peak_bytes: the peak that `mx.get_peak_memory` will report.
        peak_phase: the evaluation of the peak.
        floor_bytes: the least memory that a step of this size could take, by a formula.
        cache_bytes: freed memory that MLX may keep for reuse.
        process_bytes: what this process holds now, without the memory of MLX.
        flops: floating-point operations of one optimizer step.
        problem: why the numbers are only an estimate; empty where they are not.
        shape: of the model.
        trained_bytes: of the trained weights.
        state_bytes: of the optimizer's state.
    """

    request: PlanRequest
    rows: tuple[Row, ...]
    peak_bytes: int
    peak_phase: str
    floor_bytes: int
    cache_bytes: int
    process_bytes: int
    flops: int
    problem: str
    shape: Shape
    trained_bytes: int
    state_bytes: int

    @property
    def footprint_bytes(self) -> int:
        """The memory that the training process will hold."""
        return self.footprint_at(self.peak_bytes)

    def footprint_at(self, peak_bytes: int) -> int:
        """Compute the footprint with a lower peak; MLX never keeps more than the peak for reuse."""
        return peak_bytes + min(self.cache_bytes, peak_bytes) + self.process_bytes

    @cached_property
    def alternatives(self) -> tuple[Row, ...]:
        """Predict the peak of a step without validation, with one setting changed at a time."""
        asked = dataclasses.replace(self.request, validation_batch_tokens=None)
        found = [(name, predict(other)) for name, other in other_requests(asked)]
        return tuple(Row(name, each.peak_bytes, each.problem) for name, each in found)

    def table(self, alternatives: bool = False) -> str:
        """Format the plan, a line for each row.

        Args:
            alternatives: whether to predict other settings too, which takes several times longer.
        """
        rows = [*self.rows, *(self.alternatives if alternatives else ())]
        width = max(len(row.name) for row in rows)
        lines = [
            f"{row.name:<{width}}  {row.num_bytes / GB:>8.3f} GB  {row.arithmetic}".rstrip()
            for row in rows
        ]
        warning = [f"Only an estimate by formula: {self.problem}"] if self.problem else []
        return "\n".join([*lines, *warning])


def make_plan(request: PlanRequest) -> Plan:
    """Plan a training; nothing is loaded or computed.

    Raises:
        ModelError: when config.json cannot be read or its architecture is unknown.
        ConfigError: when the adapter does not fit the model.
    """
    found = predict(request)
    memory = mlx_memory()
    held = memory.active_bytes + memory.cache_bytes
    plan = Plan(
        request,
        rows=(),
        peak_bytes=found.peak_bytes,
        peak_phase=found.peak_phase,
        floor_bytes=floor_bytes(found.shape, found.held_bytes, request.tokens),
        cache_bytes=min(cache_limit_bytes(), found.peak_bytes),
        process_bytes=max(0, footprint_bytes() - held),
        flops=step_flops(
            found.shape,
            request.batch_size,
            request.width,
            request.grad_checkpoint,
            request.cached_prefix,
        ),
        problem=found.problem,
        shape=found.shape,
        trained_bytes=found.trainable_bytes,
        state_bytes=found.state_bytes,
    )
    return dataclasses.replace(plan, rows=(*parts(request, found), *totals(plan, found)))


def parts(request: PlanRequest, found: Prediction) -> list[Row]:
    """List the parts of the peak of forward and backward."""
    shape, trained = found.shape, f"{found.shape.num_trainable:,} weights"
    scores, others = sort_saved(found.saved, request.width)
    per_token = f"{request.rows} x {request.width} tokens x {{:,.0f}} bytes"
    blocks = "recomputed" if request.grad_checkpoint else "kept"
    per_weight = found.state_bytes / shape.num_trainable
    rows = [
        Row("weights", found.weight_bytes, "frozen, in the type they are computed in"),
        Row("trained weights", found.trainable_bytes, trained),
        Row(
            "optimizer", found.state_bytes, f"{request.optim.name}, {per_weight:.2f} bytes a weight"
        ),
        Row("activations", others, f"{per_token.format(others / request.tokens)}, blocks {blocks}"),
        Row("score matrices", scores, per_token.format(scores / request.tokens)),
    ]
    rest = found.phases[FORWARD_BACKWARD] - sum(row.num_bytes for row in rows)
    gradients = f"gradients are {found.trainable_bytes / GB:.3f} GB in the end"
    return [*rows, Row("gradients, working memory", rest, gradients)]


def sort_saved(saved: tuple[Saved, ...], width: int) -> tuple[int, int]:
    """Add up the bytes that the backward pass needs: score matrices, and all other arrays."""
    scores = sum(item.num_bytes for item in saved if is_score(item.array, width))
    return scores, sum(item.num_bytes for item in saved) - scores


def totals(plan: Plan, found: Prediction) -> list[Row]:
    """List the peak of each evaluation, and what follows from the highest one."""
    shape, request = found.shape, plan.request
    chunk = f"{CHUNK_COPIES} x {shape.rows_at_once(request.tokens)} x {shape.vocab_size:,}"
    floor = (
        f"{found.held_bytes / GB:.3f} GB of weights, gradients, optimizer; {request.tokens} tokens "
        f"x ({shape.num_trained} x {shape.width} + {shape.kept_per_token()} of one block) "
        f"x {shape.itemsize} bytes; logits {chunk} x {FLOAT32_BYTES} bytes"
    )
    return [
        *(Row(f"peak: {name}", size, "") for name, size in found.phases.items()),
        Row("peak", plan.peak_bytes, plan.peak_phase),
        Row("floor", plan.floor_bytes, floor),
        Row("footprint", plan.footprint_bytes, "peak, MLX's cache, the process itself"),
    ]


def may_be_quantized(request: PlanRequest) -> bool:
    """Whether the base could be quantised: for LoRA, if it is not yet, and its layers fit."""
    config = read_config(request.folder)
    fits = request.adapter.mode == "lora" and request.base_bits is None
    return fits and quantizable(config, GROUP_SIZE)


def other_requests(asked: PlanRequest) -> list[tuple[str, PlanRequest]]:
    """List requests with one setting changed, by name; the first one is unchanged."""
    other, flipped = dataclasses.replace, not asked.grad_checkpoint
    found = [
        ("a step without validation", asked),
        (
            f"with train.grad_checkpoint={str(flipped).lower()}",
            other(asked, grad_checkpoint=flipped),
        ),
        ("with attention without score matrices", other(asked, fused_attention=True)),
    ]
    if may_be_quantized(asked):
        bits = f"with a {BASE_BITS}-bit base"
        found.append((bits, other(asked, base_bits=BASE_BITS)))
    return found
