"""What the plan is asked, from what the training loop is told."""

from pathlib import Path

from pipeline.data.batches import resolve_arrangement
from pipeline.data.store import TokenStore
from pipeline.device import has_fused_attention, num_cpu_streams
from pipeline.model.adapters import AdapterSettings
from pipeline.optim.optimizer import OptimSettings
from pipeline.train.plan.predict import PlanRequest
from pipeline.train.settings import EVALUATION_LOGITS, TrainSettings


def plan_request(
    folder: Path,
    dtype: str,
    adapter: AdapterSettings,
    settings: TrainSettings,
    optim: OptimSettings,
    stores: tuple[TokenStore, TokenStore],
    cached_prefix: bool = False,
) -> PlanRequest:
    """Ask for a plan of what a trainer with these settings would do.

    Args:
        folder: holds config.json.
        dtype: `model.dtype`.
        adapter: what is trained.
        settings: the loop's parameters.
        optim: the optimizer's parameters.
        stores: what is trained and what is validated on.
        cached_prefix: whether frozen blocks are left out of the steps.
    """
    longest = int(max(store.lengths.max() for store in stores))
    validated = min(settings.validation_documents or len(stores[1]), len(stores[1])) * longest
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
        validation_batch_tokens=min(
            settings.evaluation_tokens(longest, stores[0].vocab_size), validated
        ),
        least_validation_tokens=EVALUATION_LOGITS // stores[0].vocab_size,
        cached_prefix=cached_prefix,
        num_streams=num_cpu_streams(),
    )
