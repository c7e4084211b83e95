"""What the plan is asked, from what the training loop is told."""

from pathlib import Path

from pipeline.data.batches import resolve_arrangement
from pipeline.device import has_fused_attention, num_cpu_streams
from pipeline.model.adapters import AdapterSettings
from pipeline.optim.optimizer import OptimSettings
from pipeline.train.feed import TrainingData
from pipeline.train.plan.predict import PlanRequest
from pipeline.train.settings import EVALUATION_LOGITS, TrainSettings


def plan_request(
    folder: Path,
    dtype: str,
    adapter: AdapterSettings,
    settings: TrainSettings,
    optim: OptimSettings,
    data: TrainingData,
) -> PlanRequest:
    """Ask for a plan of what a trainer with these settings would do.

    Args:
        folder: holds config.json.
        dtype: `model.dtype`.
        adapter: what is trained.
        settings: the loop's parameters.
        optim: the optimizer's parameters.
        data: of the run.
    """
    longest, vocab_size = data.longest_tokens, data.train.vocab_size
    count = len(data.validation)
    validated = min(settings.validation_documents or count, count) * longest
    return PlanRequest(
        folder=folder,
        dtype=dtype,
        adapter=adapter,
        optim=optim,
        batch_size=settings.documents_per_step(longest),
        grad_accumulation_steps=settings.grad_accumulation_steps,
        longest_tokens=longest,
        arrangement=resolve_arrangement(settings.arrangement, has_fused_attention()),
        grad_checkpoint=settings.grad_checkpoint,
        label_smoothing=settings.label_smoothing,
        validation_batch_tokens=min(settings.evaluation_tokens(longest, vocab_size), validated),
        least_validation_tokens=EVALUATION_LOGITS // vocab_size,
        cached_prefix=data.activations is not None,
        scores_conflicts=bool(data.conflicts),
        num_streams=num_cpu_streams(),
    )
