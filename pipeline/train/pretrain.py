"""Makes a scratch model: a new small Llama that learns its language before the fine-tuning."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.store import TokenStore
from pipeline.model.base import count_parameters
from pipeline.model.scratch import initialize, llama_config, save_scratch
from pipeline.optim import OptimSettings
from pipeline.train.loop import Trainer, TrainSettings
from pipeline.train.tune import run

NUM_VALIDATIONS = 5


@dataclass(frozen=True)
class PretrainSettings:
    """What `model.scratch` and `model.pretrain` say, and what of other sections concerns them."""

    shape: dict[str, Any]
    num_steps: int
    batch_size: int
    optim: OptimSettings
    arrangement: str
    seed: int


def make_scratch(
    settings: PretrainSettings, prepared: Path, run_folder: Path, base: Path
) -> dict[str, Any]:
    """Initialise and pretrain a model, and write its folder, the tokenizer apart.

    It learns from `data/prepared/pretrain`, which the built-in world brings, or else from the
    training split. Every document has weight 1.

    Args:
        settings: the shape and the recipe.
        prepared: data/prepared.
        run_folder: for checkpoints.
        base: gets config.json and model.safetensors.
    """
    own = prepared / "pretrain"
    train = TokenStore(own if own.exists() else prepared / "train")
    validation = TokenStore(prepared / "validation")
    config = llama_config(settings.shape, train.vocab_size, special_ids(prepared / "tokenizer"))
    model = initialize(config, settings.seed)
    model.unfreeze()
    steps = settings.num_steps
    recipe = TrainSettings(
        num_steps=steps,
        batch_size=settings.batch_size,
        batch_tokens=None,
        grad_accumulation_steps=1,
        grad_checkpoint=False,
        max_grad_norm=1.0,
        steps_per_eval=max(1, steps // NUM_VALIDATIONS),
        steps_per_save=max(1, steps // NUM_VALIDATIONS),
        validation_documents=256,
        keep_checkpoints=2,
        on_non_finite="stop",
        arrangement=settings.arrangement,
        seed=settings.seed,
    )
    trainer = Trainer(model, train, validation, recipe, settings.optim, run_folder)
    run(trainer, "pretrain")
    save_scratch(model, config, base)
    progress = trainer.progress
    return {
        "pretrain_first_loss": float(trainer.validations.rows()[0]["val_loss"]),
        "pretrain_uniform_loss": math.log(config["vocab_size"]),
        "pretrain_train_loss": progress.train_loss,
        "pretrain_val_loss": progress.val_loss,
        "pretrain_steps": progress.step,
        "pretrain_tokens": progress.num_tokens,
        "pretrain_wall_seconds": progress.wall_seconds,
        "base_parameters": count_parameters(model)[1],
    }


def special_ids(tokenizer: Path) -> dict[str, int]:
    """Read the ids of the tokens that start and end a text, for config.json."""
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    return {f"{name}_token_id": ids[settings[f"{name}_token"]] for name in ("bos", "eos")}
