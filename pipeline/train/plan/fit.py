"""Refuses a training that cannot fit into memory, and says which changes would make it fit."""

import dataclasses
from collections.abc import Iterable, Iterator

from pipeline.errors import DeviceError
from pipeline.train.plan.predict import PlanRequest, predict
from pipeline.train.plan.report import BASE_BITS, GB, Plan, may_be_quantized

SHORTEST_TOKENS = 64
"""Documents are never proposed to be cut shorter than this."""

Change = tuple[str, PlanRequest]
"""How a change is asked for, and what is trained then."""


def require_fit(plan: Plan, limit_bytes: int) -> None:
    """Refuse what needs more memory than there may be.

    Args:
        plan: what is to be trained.
        limit_bytes: what the training process may hold.

    Raises:
        DeviceError: with the numbers, and the smallest changes that make it fit.
    """
    if plan.footprint_bytes <= limit_bytes:
        return
    overhead = plan.cache_bytes + plan.process_bytes
    lines = [
        f"The training needs {plan.footprint_bytes / GB:.3f} GB, and {limit_bytes / GB:.3f} GB are "
        f"allowed (train.memory_limit_gb).",
        f"At its peak ({plan.peak_phase}) MLX holds {plan.peak_bytes / GB:.3f} GB; it may keep "
        f"{plan.cache_bytes / GB:.3f} GB for reuse, and the process itself holds "
        f"{plan.process_bytes / GB:.3f} GB.",
    ]
    found = [fitting(changes, limit_bytes - overhead) for changes in kinds(plan.request)]
    proposals = [line for line in found if line]
    if proposals:
        lines += ["Each of these makes it fit, peak of MLX as predicted:", *proposals]
    else:
        lines += ["Nothing that can be set makes it fit: use a smaller model or more memory."]
    raise DeviceError("\n".join(lines))


def fitting(changes: Iterable[Change], peak_bytes: int) -> str:
    """Describe the first of some changes, the smallest first, that stays below a peak."""
    for text, request in changes:
        peak = predict(request).peak_bytes
        if peak <= peak_bytes:
            return f"  {text}: {peak / GB:.3f} GB"
    return ""


def kinds(request: PlanRequest) -> Iterator[Iterable[Change]]:
    """List changes by kind, those that leave the result as it is first."""
    if len(request.lane_rows) > 1:
        yield [("OPENBLAS_NUM_THREADS=1", dataclasses.replace(request, num_lanes=1))]
    yield accumulated(request)
    yield checkpointed(request)
    yield shortened(request)
    if may_be_quantized(request):
        text = f"model.quantize_bits={BASE_BITS}"
        yield [(text, dataclasses.replace(request, base_bits=BASE_BITS))]


def accumulated(request: PlanRequest) -> Iterator[Change]:
    """Split a step into more micro-batches; the result stays the same."""
    steps = request.num_micro_batches
    while steps < request.batch_size:
        steps = min(2 * steps, request.batch_size)
        text = f"train.grad_accumulation_steps={steps}"
        yield text, dataclasses.replace(request, grad_accumulation_steps=steps)


def checkpointed(request: PlanRequest) -> Iterator[Change]:
    """Recompute blocks, alone or with smaller micro-batches; the result stays the same."""
    if request.grad_checkpoint:
        return
    text, changed = "train.grad_checkpoint=true", dataclasses.replace(request, grad_checkpoint=True)
    yield text, changed
    for more, smaller in accumulated(changed):
        yield f"{text} {more}", smaller


def shortened(request: PlanRequest) -> Iterator[Change]:
    """Cut documents shorter, alone or with all that leaves the result as it is."""
    *_, (text, least) = [("", request), *accumulated(request)]
    *_, (text, least) = [(text, least), *checkpointed(request)]
    length = request.longest_tokens // 2
    while length >= SHORTEST_TOKENS:
        for prefix, base in (("", request), (f"{text} " if text else "", least)):
            changed = dataclasses.replace(base, longest_tokens=length)
            yield f"{prefix}data.max_seq_len={length}", changed
        length //= 2
