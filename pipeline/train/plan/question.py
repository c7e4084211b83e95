"""What `--plan` asks: about prepared rows and a base where there are any, else about settings."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from pipeline.external.hub import locate
from pipeline.external.paths import SCRATCH
from pipeline.files import write_json
from pipeline.model.blueprint import blueprint
from pipeline.model.body_and_head import BodyAndHead
from pipeline.model.limits import resolve_max_seq_len, text_limit
from pipeline.model.scratch import llama_config
from pipeline.model.source.folder import read_config
from pipeline.train.finetune import Finetune, train_settings
from pipeline.train.plan.request import DocumentFacts, document_facts
from pipeline.train.plan.workload import (
    Workload,
    assumed_validation,
    assumed_workload,
    prepared_workload,
)
from pipeline.train.protocol import RunSpec, plain
from pipeline.train.settings import TrainSettings

SPECIAL_IDS = {"bos_token_id": 0, "eos_token_id": 1}
"""Of a model that is not made; any ids take the same memory."""


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        config: all sections of the configuration.
        settings: of the loop.
        folder: holds the config.json of the base.
        bits: that the base is to be quantised to; None: as config.json says.
        documents: that are read.
        workload: how much of them.
    """

    config: DictConfig
    settings: TrainSettings
    folder: Path
    bits: int | None
    documents: DocumentFacts
    workload: Workload


def question_of(spec: RunSpec) -> Question:
    """Gather what is asked."""
    config, settings, bounds = spec.config, train_settings(spec.config), spec.config.validate
    if spec.prepared:
        data = Finetune(spec).data
        documents = document_facts(data, settings)
        held = bounds.documents, bounds.tokens
        work = prepared_workload(data, settings, Path(spec.prepared), held)
        return Question(config, settings, Path(spec.base), None, documents, work)
    folder = base_folder(config.model, Path(spec.run_folder) / "architecture")
    documents = assumed_documents(config, settings, folder)
    work = assumed_workload(documents, settings, bounds.tokens)
    return Question(config, settings, folder, config.model.quantize_bits, documents, work)


def base_folder(model: DictConfig, made: Path) -> Path:
    """Find the folder of `model.source`; that of a model to be made has its config.json alone.

    Args:
        model: the section `model`.
        made: where to write that config.json.
    """
    if model.source != SCRATCH:
        return locate(model.source, model.revision, model.allow_network, weights=False)
    shape = plain(model.scratch)
    write_json(made / "config.json", llama_config(shape, shape["vocab_size"], SPECIAL_IDS))
    return made


def assumed_documents(config: DictConfig, settings: TrainSettings, folder: Path) -> DocumentFacts:
    """Describe documents that are not there: all as long as allowed."""
    facts = read_config(folder)
    longest = resolve_max_seq_len(config.data.max_seq_len, *text_limit(facts))
    return DocumentFacts(
        longest_tokens=longest,
        vocab_size=BodyAndHead(blueprint(facts, "float32")).vocab_size,
        num_validated=assumed_validation(settings, longest),
        cached_prefix=bool(config.train.prefix_cache_gb),
        has_contests=config.data.source == "conflicts",
    )
