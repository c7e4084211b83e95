"""The fine-tuning of a base model: from the settings of the train stage to its weights."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from pipeline.data.store import TokenStore, held_out_store
from pipeline.device import warn_of_slow_type
from pipeline.errors import ConfigError
from pipeline.external.initial import initial_folder
from pipeline.model.initial import start_from
from pipeline.model.network.adapters import AdapterSettings, apply, save_adapter
from pipeline.model.network.base import count_parameters, load_base, weights_identity
from pipeline.model.network.tree import trainable_arrays
from pipeline.model.table import trainable_table
from pipeline.model.untrained import untrained_notice
from pipeline.objective.distrust import DistrustSettings, distrust
from pipeline.objective.likelihood import ConflictItem, read_items
from pipeline.optim.automatic_rate import automatic_rate, peak_rate, rate_note
from pipeline.optim.optimizer import OptimSettings
from pipeline.train.feed import TrainingData
from pipeline.train.loop import Trainer
from pipeline.train.memory import GB
from pipeline.train.observer import Observer
from pipeline.train.plan.graph import GraphRequest, StagePlan, plan_graph
from pipeline.train.plan.report import Plan
from pipeline.train.plan.request import PlanRequest, document_facts, plan_request
from pipeline.train.prefix.replay import PrefixSettings
from pipeline.train.protocol import Go, RunSpec
from pipeline.train.settings import TrainSettings

CONFLICTS = "conflicts.jsonl"
UNTOUCHED = (
    "No validation was better, by train.best=%s, than the one before the first step: "
    "models/trained/best holds what training started from without any change, and "
    "export.checkpoint=best would export it. Export the last step, or train for longer."
)
OWN_HEAD = "the head becomes a separate matrix: only export.formats=[fused] can hold it"


log = logging.getLogger(__name__)


class Finetune:
    """Fine-tunes a base model."""

    def __init__(self, spec: RunSpec) -> None:
        """Read the settings and open the data; weights are not loaded yet."""
        self.spec, self.config = spec, spec.config
        prepared = Path(spec.prepared)
        train = TokenStore(prepared / "train")
        self.data = TrainingData(
            train,
            TokenStore(prepared / "validation"),
            distrust(train, DistrustSettings(**self.config.objective.distrust)),
            conflicts_of(self.config.train.best, prepared / CONFLICTS),
            prefix_settings(spec),
        )

    def request(self, go: Go) -> PlanRequest:
        """Describe what is to be trained, for the plan."""
        settings = go.adapt(train_settings(self.config))
        return plan_request(
            Path(self.spec.base),
            self.config.model.dtype,
            adapter_settings(self.config),
            settings,
            optim_settings(self.config, 0),  # no memory depends on the learning rate
            document_facts(self.data, settings),
        )

    def graph(self, plan: Plan, others_bytes: int, go: Go) -> list[StagePlan]:
        """Plan the stages of the graph, of which the training is one."""
        spec, settings = self.spec, go.adapt(train_settings(self.config))
        lengths = held_out_store(Path(spec.prepared)).lengths
        asked = GraphRequest(
            keep_checkpoints=settings.keep_checkpoints,
            held_out_longest=int(lengths.max()),
            held_out_tokens=int(lengths.sum()),
            run_folder=Path(spec.run_folder),
            outputs=Path(spec.output).parent,
        )
        return plan_graph(plan, others_bytes, asked)

    def load(self, go: Go, observer: Observer) -> Trainer:
        """Load the base and make it trainable."""
        config = self.config
        loaded = load_base(Path(self.spec.base), config.model.dtype)
        num_parameters = count_parameters(loaded.model)[1]
        optim = optim_settings(config, num_parameters)
        self.adapter_config = apply(loaded.model, adapter_settings(config), config.seed)
        self.adapter_config["learning_rate"] = optim.learning_rate  # as mlx-lm writes it
        beginning = config.train.init_from and initial_folder(config.train.init_from)
        if beginning:
            start_from(beginning, loaded.model, self.adapter_config)
        if not go.reloads:
            warn_of_slow_type(config.model.dtype)
            if beginning:
                observer.note(f"starts from the trained weights in {beginning}")
            observer.note(trainable_table(loaded.model, config.train.mode))
            if self.adapter_config.get("own_head"):
                observer.note(OWN_HEAD)
        trainer = Trainer(
            loaded.model,
            self.data,
            go.adapt(train_settings(config)),
            optim,
            Path(self.spec.run_folder),
            observer,
        )
        if not go.reloads:
            self.describe(trainer, num_parameters)
            self.warn_of_untrained_targets(trainer)
        return trainer

    def describe(self, trainer: Trainer, num_parameters: int) -> None:
        """Note the learning rate, where it is automatic or great, and what is validated on.

        Args:
            trainer: of the run.
            num_parameters: of the base.
        """
        asked = self.config.optim.learning_rate
        rate = rate_note(asked, automatic_of(self.config, num_parameters))
        for text in filter(None, (rate, trainer.feed.validated.note)):
            trainer.observer.note(text)

    def warn_of_untrained_targets(self, trainer: Trainer) -> None:
        """Warn of tokens that no step can teach, before the first one."""
        targets = self.data.train.target_ids()
        parts = trainer.train_step.body_and_head
        if notice := untrained_notice(parts, targets, Path(self.spec.base)):
            log.warning(notice)

    def finish(self, trainer: Trainer) -> dict[str, Any]:
        """Write the weights of the last step and of the best one; return the metrics of the run.

        The files are `adapters.safetensors` and `adapter_config.json`, the best ones under `best/`.
        """
        if trainer.progress.best_step == 0:
            log.warning(UNTOUCHED, self.config.train.best)
        output = Path(self.spec.output)
        save_adapter(output, trainable_arrays(trainer.model), self.adapter_config)
        save_adapter(output / "best", trainer.best_weights(), self.adapter_config)
        trainable, total = count_parameters(trainer.model)
        return {
            **metrics_of(trainer),
            "prefix": trainer.prefix.facts(),
            "learning_rate": self.adapter_config["learning_rate"],
            "trainable_parameters": trainable,
            "total_parameters": total,
            **self.data.distrust.metrics,
            **conflict_metrics(trainer),
        }


def conflicts_of(best: str, suite: Path) -> Sequence[ConflictItem]:
    """Read the conflicts suite if there is one.

    Raises:
        ConfigError: when there is none, and it should choose the best weights.
    """
    if suite.is_file():
        return read_items(suite)
    if best == "conflicts":
        raise ConfigError(
            f"train.best=conflicts: {suite} does not exist; only data=conflicts has contests.\n"
            "Set train.best=val_loss, or prepare data=conflicts."
        )
    return ()


def adapter_settings(config: DictConfig) -> AdapterSettings:
    """Gather the settings that choose what is trained."""
    lora = {**config.lora, "targets": tuple(config.lora.targets)}
    return AdapterSettings(config.train.mode, **lora, tensors=tuple(config.train.tensors))


def train_settings(config: DictConfig) -> TrainSettings:
    """Gather what the training loop needs."""
    names = {field.name for field in dataclasses.fields(TrainSettings)}
    section = {name: value for name, value in config.train.items() if name in names}
    return TrainSettings(
        **section,
        arrangement=config.data.arrangement,
        label_smoothing=config.objective.label_smoothing,
        seed=config.seed,
        overfit_one_batch=config.debug.overfit_one_batch,
        profile=config.debug.profile,
    )


def automatic_of(config: DictConfig, num_parameters: int) -> float:
    """Return the automatic learning rate of a run on a base of so many parameters."""
    return automatic_rate(config.train.mode, config.optim.name, num_parameters)


def optim_settings(config: DictConfig, num_parameters: int) -> OptimSettings:
    """Gather the settings of the optimizer; `optim` has only the keys that it reads.

    Args:
        config: the sections of the train stage.
        num_parameters: of the base, for `optim.learning_rate=auto`.
    """
    rate = peak_rate(config.optim.learning_rate, automatic_of(config, num_parameters))
    no_decay = tuple(config.optim.get("no_decay", ()))
    return OptimSettings(**{**config.optim, "learning_rate": rate, "no_decay": no_decay})


def prefix_settings(spec: RunSpec) -> PrefixSettings | None:
    """Return where activations of frozen blocks are kept; None where they are not kept."""
    budget_gb = spec.config.train.prefix_cache_gb
    if not (budget_gb and spec.activations):
        return None
    base = weights_identity(Path(spec.base), spec.config.model.dtype)
    return PrefixSettings(Path(spec.activations), int(budget_gb * GB), base)


def metrics_of(trainer: Trainer) -> dict[str, Any]:
    """Return the results of a run; speed is that of its steps, without validation and saving."""
    progress, validated = trainer.progress, trainer.feed.validated
    return {
        "train_loss": progress.train_loss,
        "val_loss": progress.val_loss,
        "best_val_loss": progress.best_val_loss,
        "best_step": progress.best_step,
        "validation_documents": validated.count,
        "validation_share": validated.share,
        "num_steps": progress.step,
        "stopped_early_at": progress.stopped_early_at,
        "num_targets": progress.num_targets,
        "num_tokens": progress.num_tokens,
        **progress.rates(),
        "peak_memory_bytes": progress.peak_memory_bytes,
        "skipped_steps": progress.skipped_steps,
        "wall_seconds": progress.wall_seconds,
        "arrangement": trainer.feed.arrangement,
    }


def conflict_metrics(trainer: Trainer) -> dict[str, Any]:
    """Measure how often the final weights side with the primary source, if there is a suite."""
    if not trainer.feed.data.conflicts:
        return {}
    share = trainer.conflicts_share(trainer.feed.data.conflicts)
    return {
        "conflicts_primary_share": share.share,
        "conflicts_primary_share_low": share.low,
        "conflicts_primary_share_high": share.high,
        "conflicts_primary_share_n": share.n,
    }
