"""The pretraining of a scratch model: a new small Llama, before the fine-tuning."""

import math
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from pipeline.data.store import REMAKE, TokenStore
from pipeline.errors import DataError, report_problems
from pipeline.external.json_files import read_own
from pipeline.external.shapes import COUNT, TEXT
from pipeline.files import write_json
from pipeline.model.network.adapters import AdapterSettings
from pipeline.model.network.base import count_parameters
from pipeline.model.scratch import initialize, llama_config, save_scratch
from pipeline.optim.optimizer import OptimSettings
from pipeline.train.feed import TrainingData
from pipeline.train.loop import Trainer
from pipeline.train.observer import Observer
from pipeline.train.plan.graph import StagePlan
from pipeline.train.plan.report import Plan
from pipeline.train.plan.request import PlanRequest, document_facts, plan_request
from pipeline.train.protocol import Go, RunSpec, plain
from pipeline.train.settings import TrainSettings

NUM_VALIDATIONS = 5
STEPS_PER_SAVE = 100
MUON_MOMENTUM = 0.95
EVERYTHING = AdapterSettings("full", 1, 1.0, 0.0, None, ())


class Pretrain:
    """Pretrains a scratch model.

    It learns from `data/prepared/pretrain`, which the conflicts world writes, or else from the
    training split. Every document has weight 1.
    """

    def __init__(self, spec: RunSpec) -> None:
        """Read the settings and open the data; weights are not made yet."""
        self.spec, self.config = spec, spec.config
        prepared = Path(spec.prepared)
        own = prepared / "pretrain"
        self.data = TrainingData(
            TokenStore(own if own.exists() else prepared / "train"),
            TokenStore(prepared / "validation"),
        )
        shape = plain(self.config.model.scratch)
        special = special_ids(prepared / "tokenizer")
        self.architecture = llama_config(shape, self.data.train.vocab_size, special)

    def request(self, go: Go) -> PlanRequest:
        """Describe what is to be trained, for the plan."""
        folder = Path(self.spec.run_folder) / "architecture"
        write_json(folder / "config.json", self.architecture)
        settings = go.adapt(pretrain_settings(self.config))
        optim = optim_settings(self.config)
        facts = document_facts(self.data, settings)
        return plan_request(folder, "float32", EVERYTHING, settings, optim, facts)

    def graph(self, plan: Plan, others_bytes: int, go: Go) -> list[StagePlan]:
        """Plan no other stage: the training does so, when the base is there."""
        del plan, others_bytes, go
        return []

    def load(self, go: Go, observer: Observer) -> Trainer:
        """Initialise the weights."""
        model = initialize(self.architecture, self.config.seed)
        model.unfreeze()
        return Trainer(
            model,
            self.data,
            go.adapt(pretrain_settings(self.config)),
            optim_settings(self.config),
            Path(self.spec.run_folder),
            observer,
        )

    def finish(self, trainer: Trainer) -> dict[str, Any]:
        """Write config.json and model.safetensors; return the metrics of the pretraining."""
        save_scratch(trainer.model, self.architecture, Path(self.spec.output))
        progress = trainer.progress
        return {
            "pretrain_first_loss": float(trainer.validations.rows()[0]["val_loss"]),
            "pretrain_uniform_loss": math.log(self.architecture["vocab_size"]),
            "pretrain_train_loss": progress.train_loss,
            "pretrain_val_loss": progress.val_loss,
            "pretrain_steps": progress.step,
            "pretrain_targets": progress.num_targets,
            "pretrain_tokens": progress.num_tokens,
            "pretrain_wall_seconds": progress.wall_seconds,
            "peak_memory_bytes": progress.peak_memory_bytes,
            "base_parameters": count_parameters(trainer.model)[1],
        }


def pretrain_settings(config: DictConfig) -> TrainSettings:
    """Gather what the loop needs from the few keys that a pretraining has."""
    recipe = config.model.pretrain
    interval = max(1, recipe.num_steps // NUM_VALIDATIONS)
    return TrainSettings(
        num_steps=recipe.num_steps,
        batch_size=recipe.batch_size,
        max_grad_norm=1.0,
        steps_per_eval=interval,
        steps_per_save=min(interval, STEPS_PER_SAVE),
        validation_documents=256,
        arrangement=config.data.arrangement,
        seed=config.seed,
    )


def optim_settings(config: DictConfig) -> OptimSettings:
    """Gather the settings of the optimizer: Muon, which needs half as many steps as AdamW here."""
    recipe = config.model.pretrain
    return OptimSettings(
        recipe.learning_rate,
        recipe.weight_decay,
        recipe.warmup_fraction,
        name="muon",
        momentum=MUON_MOMENTUM,
    )


def special_ids(tokenizer: Path) -> dict[str, int]:
    """Read the ids of the tokens that start and end a text, for config.json.

    Raises:
        DataError: when the files are not those that the prepare stage wrote.
    """
    named = {f"{name}_token": TEXT for name in ("bos", "eos")}
    settings = read_own(tokenizer / "tokenizer_config.json", named, REMAKE)
    listed = {"added_tokens": [{"content": TEXT, "id": COUNT}]}
    path = tokenizer / "tokenizer.json"
    added = read_own(path, listed, REMAKE)["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    problems = [f"{name}: is no added token" for name in named if settings[name] not in ids]
    report_problems(DataError, f"{path}: tokens are missing:", problems, REMAKE.text)
    return {f"{name}_id": ids[settings[name]] for name in named}
