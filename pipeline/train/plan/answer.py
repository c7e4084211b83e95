"""The answer to `--plan`: what a training and the stages after it take, and whether that fits."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import psutil

from pipeline.data.batches import PROOF_DOCUMENTS, PROOF_TOKENS
from pipeline.device import limit_mlx_memory
from pipeline.errors import DeviceError, StorageError
from pipeline.external.paths import SCRATCH
from pipeline.machine import available_memory_bytes
from pipeline.model.blueprint import blueprint
from pipeline.model.network.base import count_parameters
from pipeline.model.source.folder import read_config
from pipeline.train.finetune import adapter_settings, optim_settings
from pipeline.train.memory import GB
from pipeline.train.plan.fit import require_fit
from pipeline.train.plan.graph import (
    NUM_PROVEN,
    GraphRequest,
    StagePlan,
    plan_graph,
    require_graph_fits,
)
from pipeline.train.plan.question import Question, question_of
from pipeline.train.plan.report import Plan, make_plan
from pipeline.train.plan.request import plan_request
from pipeline.train.plan.text import Subject, Times, plan_text, stage_lines
from pipeline.train.plan.timing import Timing, time_model
from pipeline.train.plan.workload import full_rows, num_validations
from pipeline.train.protocol import RunSpec


def answer(spec: RunSpec, limit_bytes: int, others_bytes: int) -> dict[str, Any]:
    """Plan the training of a specification, and the stages after it.

    Args:
        spec: all sections of the configuration, and `verbose`; `base` and `prepared` are empty
            where there is none.
        limit_bytes: what all processes of the run together may hold.
        others_bytes: what the processes hold that do not train.

    Returns:
        The plan as `text`.
    """
    started = time.time() - psutil.Process(os.getpid()).create_time()
    asked = question_of(spec)
    limit_mlx_memory(limit_bytes)  # which decides what MLX keeps for reuse
    num_parameters = count_parameters(blueprint(read_config(asked.folder), "float32", asked.bits))[
        1
    ]
    optim = optim_settings(asked.config, num_parameters)
    request = plan_request(
        asked.folder,
        asked.config.model.dtype,
        adapter_settings(asked.config),
        asked.settings,
        optim,
        asked.documents,
    )
    plan = make_plan(dataclasses.replace(request, base_bits=asked.bits))
    stages = plan_graph(plan, others_bytes, graph_request(spec, asked))
    limit_mlx_memory(available_memory_bytes())
    work = asked.workload
    timing = time_model(plan.request, plan.shape, work.step, work.target_share)
    times = timing and times_of(asked, timing, plan, started)
    subject = subject_of(asked, plan, num_parameters)
    verdict = verdict_of(plan, stages, limit_bytes, others_bytes)
    verbose = spec.parameters["verbose"]
    lines = [
        plan_text(subject, plan, others_bytes, verdict, times),
        "",
        *stage_lines(stages, times, verbose),
    ]
    if verbose:
        lines += ["", plan.table(alternatives=True)]
    return {"text": "\n".join(lines)}


def graph_request(spec: RunSpec, asked: Question) -> GraphRequest:
    """Ask for the plan of the other stages."""
    held = asked.workload.held
    return GraphRequest(
        keep_checkpoints=asked.settings.keep_checkpoints,
        held_out_longest=held.longest_tokens,
        held_out_tokens=round(held.rows.count * held.rows.width),
        run_folder=Path(spec.run_folder),
        outputs=Path(spec.output).parent,
        is_fused="fused" in asked.config.export.formats,
    )


def verdict_of(plan: Plan, stages: list[StagePlan], limit_bytes: int, others_bytes: int) -> str:
    """Describe whether everything fits; where it does not, why, and what would."""
    try:
        require_fit(plan, limit_bytes, others_bytes)
        require_graph_fits(stages, limit_bytes)
    except (DeviceError, StorageError) as error:
        return f"It does not fit.\n{error}"
    return f"It fits: {limit_bytes / GB:.3f} GB are allowed (train.memory_limit_gb)."


def times_of(asked: Question, timing: Timing, plan: Plan, started: float) -> Times:
    """Compute how long the training and the stages after it take.

    Args:
        asked: the question.
        timing: of the model.
        plan: of the training.
        started: seconds that a process takes to start.
    """
    work, settings = asked.workload, asked.settings
    is_cached = plan.request.cached_prefix
    step = timing.step_seconds(work.step, is_cached)
    count = settings.num_steps or 0
    proof = full_rows(PROOF_DOCUMENTS, PROOF_TOKENS)
    held = timing.forward_seconds(work.held.rows) + timing.forward_seconds(work.items)
    times = Times(
        num_steps=count,
        step=step,
        num_validations=num_validations(count, settings.steps_per_eval),
        validation=timing.forward_seconds(work.validation),
        start=started,
        last=timing.forward_seconds(work.last),
        tokens_per_second=work.step.tokens / step,
        stages={
            "export": started + NUM_PROVEN * timing.forward_seconds(proof),
            "validate": started + 2 * held,
        },
    )
    return dataclasses.replace(times, stages=times.stages | {"train": times.total})


def subject_of(asked: Question, plan: Plan, num_parameters: int) -> Subject:
    """Describe what is trained, in three lines."""
    config, settings, request = asked.config, asked.settings, plan.request
    name = config.model.source if config.model.source == SCRATCH else Path(config.model.source).name
    kind = read_config(asked.folder)["model_type"]
    steps = f"{settings.num_steps:,} steps" if settings.num_steps else "steps of train.num_epochs"
    batch = f"{request.batch_size} documents of up to {request.longest_tokens} tokens"
    return Subject(
        model=f"model: {name}, {kind} with {num_parameters:,} parameters",
        training=(
            f"train.mode={config.train.mode} with {request.optim.name} at a learning rate of "
            f"{request.optim.learning_rate:g}"
        ),
        step=f"{steps}, each of {batch}",
        are_rows_known=asked.workload.is_known,
    )
