"""Which parameters there are: type, unit, range, and what each one does.

Values stand in `conf/` only. This module imports nothing heavy, because the `dvc` process loads
it too (through `hydra_plugins/`), so that a wrong `-S` override fails before anything is touched.
"""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore

from pipeline.config.declare import LONGEST, MOST, key, section
from pipeline.config.optimizers import Optim
from pipeline.config.options import OPTIONS, Benchmark, Data, Model


@dataclass
class Lora:
    """Low-rank adapters (arXiv 2106.09685, 2402.09353); read when train.mode is lora or dora."""

    rank: int = key("width of the bottleneck", minimum=1, maximum=65536)
    alpha: float = key(
        "scale of the update times rank: scale = alpha / rank", minimum=0, maximum=MOST
    )
    rslora: bool = key("scale = alpha / sqrt(rank), which keeps large ranks learning")
    dropout: float = key("share of adapter inputs dropped", minimum=0, maximum=0.99)
    num_layers: int | None = key("adapt this many last blocks; null: all", minimum=1, maximum=10**4)
    targets: list[str] = key(
        "layers, by name or pattern (`*`: all linear ones of the blocks; embed_tokens, lm_head)"
    )


@dataclass
class Distrust:
    """Weights from provenance."""

    mode: str = key(
        "none: every document counts the same; weighted: by its provenance; sampling: it is drawn "
        "as often; additive: the published term, which trains nothing",
        choices=("none", "additive", "weighted", "sampling"),
    )
    alpha: float = key("factor of the published term (additive)", minimum=2.3, maximum=3.0)
    min_weight: float = key("least weight of a document", minimum=0, maximum=1)
    max_weight: float = key("greatest weight of a document", minimum=1, maximum=1000)


@dataclass
class Objective:
    """What is minimised: token-weighted cross-entropy in nats."""

    label_smoothing: float = key(
        "share of each target that is spread over the vocabulary", minimum=0, maximum=0.99
    )
    distrust: Distrust = section(Distrust)


@dataclass
class Train:
    """The training run."""

    mode: str = key(
        "what is trained; head: final norm and output head; tensors: those in train.tensors",
        choices=("lora", "dora", "head", "full", "tensors"),
    )
    tensors: list[str] = key("for train.mode=tensors: whole names, or patterns; else empty")
    init_from: str | None = key(
        "start from the trained weights in this folder of an adapter or of a run, with a new "
        "optimizer; null: from the base"
    )
    num_steps: int | None = key("optimizer steps (or give num_epochs)", minimum=1, maximum=MOST)
    num_epochs: float | None = key(
        "times that every document is read (or give num_steps)", minimum=1e-6, maximum=10**4
    )
    batch_size: int | None = key(
        "documents a step (or give batch_tokens)", minimum=1, maximum=10**6
    )
    batch_tokens: int | None = key(
        "tokens a step, at most (or give batch_size)", minimum=1, maximum=MOST
    )
    grad_accumulation_steps: int = key(
        "micro-batches that a step's documents are split into; the result is the same",
        minimum=1,
        maximum=10**6,
    )
    grad_checkpoint: bool = key("recompute each block in the backward pass, to save memory")
    prefix_cache_gb: float = key(
        "disk that outputs of frozen blocks may take, for all runs together; 0: they are not kept, "
        "and computed in every step",
        unit="GB of 10^9 bytes",
        minimum=0,
        maximum=10**6,
    )
    max_grad_norm: float | None = key(
        "clip the gradient's global norm; null: never", minimum=0, maximum=MOST
    )
    steps_per_eval: int = key("steps between two validations", minimum=1, maximum=MOST)
    steps_per_save: int = key("steps between two checkpoints", minimum=1, maximum=MOST)
    validation_documents: int | None = key(
        "validate on the first ones, and on as many contests; null: all", minimum=1, maximum=MOST
    )
    validation_tokens: int | None = key(
        "and on no more of them than have so many tokens together; null: any number",
        unit="tokens",
        minimum=1,
        maximum=MOST,
    )
    best: str = key(
        "which validation is the best: that of the least loss, or of the most held-out contests "
        "decided for the primary source (data=conflicts)",
        choices=("val_loss", "conflicts"),
    )
    early_stopping_patience: int | None = key(
        "end after so many validations without a new best; null: never", minimum=1, maximum=MOST
    )
    keep_checkpoints: int = key("newest checkpoints to keep", minimum=2, maximum=10**6)
    on_non_finite: str = key(
        "when a loss or gradient is not finite: stop, or skip that step",
        choices=("stop", "skip"),
    )
    steps_per_sample: int | None = key(
        "steps between two samples: a process of its own shows what the newest weights answer to "
        "two held-out prompts, and then training goes on to the same bits; null: never",
        minimum=1,
        maximum=MOST,
    )
    reload_interval_steps: int = key(
        "a new process goes on after every so many steps, to the same bits; 0: never",
        minimum=0,
        maximum=MOST,
    )
    reload_memory_threshold_gb: float | None = key(
        "a new process goes on when the footprint passes this; null: only at the limit",
        unit="GB of 10^9 bytes",
        minimum=0,
        maximum=10**6,
    )
    memory_limit_gb: float | None = key(
        "footprint that is never passed; null: 0.8 of what machine or cgroup grants, at most 120",
        unit="GB of 10^9 bytes",
        minimum=0,
        maximum=10**6,
    )
    shrink_on_oom: bool = key(
        "split micro-batches when memory runs out again and again; the bits change then"
    )
    hang_timeout_seconds: float = key(
        "end and replace a process that is silent for so long", unit="s", minimum=1, maximum=10**6
    )
    resume: str = key(
        "auto: go on from a checkpoint of the same run, if any; never: start afresh; required: "
        "refuse to start without one",
        choices=("auto", "never", "required"),
    )
    resume_allow_inexact: bool = key(
        "go on where numerics or code have changed since the checkpoint; the metrics record it"
    )


EXPORT_FORMATS = {
    "adapter": "mlx-lm",
    "fused": "Hugging Face safetensors, in the type of the base",
}
"""What an export may be, and what reads it; `pipeline/formats/export.py` has its writer."""


@dataclass
class Export:
    """What is written out, and proven."""

    checkpoint: str = key("which weights", choices=("final", "best"))
    formats: list[str] = key(
        ", ".join(f"{name} ({reader})" for name, reader in EXPORT_FORMATS.items())
    )


@dataclass
class Validate:
    """Base and tuned model side by side."""

    documents: int | None = key(
        "held-out documents for perplexity; null: all", minimum=2, maximum=MOST
    )
    tokens: int | None = key(
        "no more held-out documents than have so many tokens together; null: any number",
        unit="tokens",
        minimum=1,
        maximum=MOST,
    )
    num_samples: int = key(
        "different held-out prompts that both models answer greedily", minimum=0, maximum=10**6
    )
    sample_tokens: int = key("longest answer", unit="tokens", minimum=1, maximum=LONGEST)
    sample_prompts: list[str] = key("prompts of your own that they answer too")


@dataclass
class Generate:
    """One prompt, answered by the base and the tuned model."""

    max_tokens: int = key("longest answer", unit="tokens", minimum=1, maximum=LONGEST)


@dataclass
class Debug:
    """Faults and shortcuts for testing; all off by default."""

    leak_mb_per_step: float = key(
        "memory to hold on to in every step", unit="MB of 10^6 bytes", minimum=0, maximum=10**6
    )
    kill_at_step: int | None = key(
        "kill the worker after this step, once; null: never", minimum=1, maximum=MOST
    )
    overfit_one_batch: bool = key("train on the documents of the first step again and again")
    profile: bool = key("write where the time of the steps goes to plots/profile.csv")


@dataclass
class Params:
    """All parameters of a run."""

    seed: int = key("of data order, initial weights and dropout", minimum=0, maximum=2**63 - 1)
    data: Data = section(Data)
    model: Model = section(Model)
    lora: Lora = section(Lora)
    optim: Optim = section(Optim)
    objective: Objective = section(Objective)
    train: Train = section(Train)
    export: Export = section(Export)
    validate: Validate = section(Validate)
    benchmark: Benchmark = section(Benchmark)
    debug: Debug = section(Debug)
    inputs: Any = None
    """In params.yaml: size and hash of each external file. By hand: an earlier run's folder."""


@dataclass
class ByHand(Params):
    """All parameters, with those of stages that are only run by hand: no part of params.yaml."""

    generate: Generate = section(Generate)


def register() -> None:
    """Make the schema known to Hydra, in the stages and inside the `dvc` process alike."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Params)
    for group, kinds in OPTIONS.items():
        for name, kind in kinds.items():
            store.store(group=group, name=f"{name}_schema", node=kind)
    store.store(group="generate", name="default_schema", node=Generate)
