"""Refuses a training that does not fit into memory, and proposes changes that make it fit."""

import dataclasses
from collections.abc import Iterable, Iterator

from pipeline.errors import DeviceError
from pipeline.train.plan.predict import predict
from pipeline.train.plan.report import BASE_BITS, GB, Plan, may_be_quantized
from pipeline.train.plan.request import PlanRequest

SHORTEST_TOKENS = 64
"""No proposal cuts documents shorter than this."""

Change = tuple[str, PlanRequest]
"""A setting as it is written on the command line, and the request with it."""


def require_fit(plan: Plan, limit_bytes: int, others_bytes: int) -> None:
    """Refuse a training whose footprint is over the limit.

    Args:
        plan: of the training.
        limit_bytes: what all processes of the run together may hold.
        others_bytes: what the processes hold that do not train.

    Raises:
        DeviceError: with the figures, and the smallest changes that make it fit.
    """
    room_bytes = limit_bytes - others_bytes
    if plan.footprint_bytes <= room_bytes:
        return
    lines = [
        f"The training needs {plan.footprint_bytes / GB:.3f} GB, and "
        f"{max(0, room_bytes) / GB:.3f} GB are allowed: {limit_bytes / GB:.3f} GB "
        f"(train.memory_limit_gb), less {others_bytes / GB:.3f} GB that the supervisor holds.",
        f"At its peak ({plan.peak_phase}) MLX holds {plan.peak_bytes / GB:.3f} GB; it may keep "
        f"{plan.cache_bytes / GB:.3f} GB for reuse, and the process itself holds "
        f"{plan.process_bytes / GB:.3f} GB.",
        *remedies(plan, room_bytes),
    ]
    raise DeviceError("\n".join(lines))


def remedies(plan: Plan, room_bytes: int) -> list[str]:
    """List changes that make it fit; a step of fewer documents only where no other change does."""
    found = [fitting(changes, plan, room_bytes) for changes in kinds(plan.request)]
    proposals = [line for line in found if line]
    if proposals:
        return ["Each of these makes it fit, peak of MLX as predicted:", *proposals]
    smaller = fitting(with_fewer_documents(plan.request), plan, room_bytes)
    if smaller:
        return ["Only a step of fewer documents makes it fit, which changes the training:", smaller]
    return ["Nothing that can be set makes it fit: use a smaller model or more memory."]


def fitting(changes: Iterable[Change], plan: Plan, room_bytes: int) -> str:
    """Describe the first change for which there is room; empty where there is none."""
    for text, request in changes:
        peak = predict(request).peak_bytes
        if plan.footprint_at(peak) <= room_bytes:
            return f"  {text}: {peak / GB:.3f} GB"
    return ""


def kinds(request: PlanRequest) -> Iterator[Iterable[Change]]:
    """List changes by kind; those that do not change the result come first."""
    if len(request.stream_rows) > 1:
        yield [("OPENBLAS_NUM_THREADS=1", dataclasses.replace(request, num_streams=1))]
    yield accumulated(request)
    yield checkpointed(request)
    yield shortened(request)
    if request.adapter.trains_matrices and request.optim.float32_copy:
        optim = dataclasses.replace(request.optim, float32_copy=False)
        yield [("optim.float32_copy=false", dataclasses.replace(request, optim=optim))]
    if may_be_quantized(request):
        text = f"model.quantize_bits={BASE_BITS}"
        yield [(text, dataclasses.replace(request, base_bits=BASE_BITS))]


def accumulated(request: PlanRequest) -> Iterator[Change]:
    """Propose more micro-batches; the result stays the same."""
    steps = request.num_micro_batches
    while steps < request.batch_size:
        steps = min(2 * steps, request.batch_size)
        yield f"train.grad_accumulation_steps={steps}", micro_batched(request, steps)


def micro_batched(request: PlanRequest, steps: int) -> PlanRequest:
    """Divide a step into so many micro-batches.

    Batches of the validation become smaller with them, as in `TrainSettings.evaluation_tokens`.
    """
    changed = dataclasses.replace(request, grad_accumulation_steps=steps)
    if request.validation_batch_tokens is None:
        return changed
    tokens = max(changed.rows * request.longest_tokens, request.least_validation_tokens)
    tokens = min(tokens, request.validation_batch_tokens)
    return dataclasses.replace(changed, validation_batch_tokens=tokens)


def checkpointed(request: PlanRequest) -> Iterator[Change]:
    """Propose recomputation, alone or with smaller micro-batches; the result stays the same."""
    if request.grad_checkpoint:
        return
    text, changed = "train.grad_checkpoint=true", dataclasses.replace(request, grad_checkpoint=True)
    yield text, changed
    for more, smaller in accumulated(changed):
        yield f"{text} {more}", smaller


def shortened(request: PlanRequest) -> Iterator[Change]:
    """Propose shorter documents, alone or with all changes that keep the result."""
    *_, (text, least) = [("", request), *accumulated(request)]
    *_, (text, least) = [(text, least), *checkpointed(request)]
    length = request.longest_tokens // 2
    while length >= SHORTEST_TOKENS:
        for others, base in (("", request), (f"{text} " if text else "", least)):
            changed = dataclasses.replace(base, longest_tokens=length)
            yield f"{others}data.max_seq_len={length}", changed
        length //= 2


def with_fewer_documents(request: PlanRequest) -> Iterator[Change]:
    """Propose a smaller step in one micro-batch, so that no gradients are added up."""
    documents = request.batch_size // 2
    while documents:
        text = f"train.batch_size={documents}"
        if request.grad_accumulation_steps > 1:
            text += " train.grad_accumulation_steps=1"
        alone = dataclasses.replace(request, batch_size=documents)
        changed = micro_batched(alone, 1)
        yield text, changed
        if not request.grad_checkpoint:
            yield (
                f"{text} train.grad_checkpoint=true",
                dataclasses.replace(changed, grad_checkpoint=True),
            )
        documents //= 2
