"""Settings of the training loop, and what follows from them."""

from dataclasses import dataclass

EVALUATION_BATCH_TOKENS = 8192
EVALUATION_LOGITS = 1 << 24
"""Numbers in the logits of a validation batch, unless those of a training batch are more."""


@dataclass(frozen=True)
class TrainSettings:
    """What the `train` section says, and what of other sections concerns the loop.

    Defaults are for runs that have no such section.
    """

    num_steps: int
    batch_size: int | None
    max_grad_norm: float | None
    steps_per_eval: int
    steps_per_save: int
    validation_documents: int | None
    arrangement: str
    seed: int
    batch_tokens: int | None = None
    validation_tokens: int | None = None
    grad_accumulation_steps: int = 1
    grad_checkpoint: bool = False
    label_smoothing: float = 0.0
    best: str = "val_loss"
    early_stopping_patience: int | None = None
    keep_checkpoints: int = 2
    on_non_finite: str = "stop"
    overfit_one_batch: bool = False
    profile: bool = False

    def documents_per_step(self, longest: int) -> int:
        """Count the documents of a step if all were as long as the longest one."""
        if self.batch_size is not None:
            return self.batch_size
        assert self.batch_tokens is not None
        return max(1, self.batch_tokens // longest)

    def evaluation_tokens(self, longest: int, vocab_size: int) -> int:
        """Size the batches of a validation, so that it takes no more memory than training does."""
        documents = self.documents_per_step(longest)
        micro_batch = -(-documents // min(self.grad_accumulation_steps, documents)) * longest
        return min(EVALUATION_BATCH_TOKENS, max(micro_batch, EVALUATION_LOGITS // vocab_size))


def evaluation_batch_tokens(vocab_size: int) -> int:
    """Size the batches of an evaluation that no training goes before; a row may have more."""
    return min(EVALUATION_BATCH_TOKENS, max(1, EVALUATION_LOGITS // vocab_size))
