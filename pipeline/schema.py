"""Which parameters there are: type, unit, range, and what each one does.

Values stand in `conf/` only. This module imports nothing heavy, because the `dvc` process loads
it too (through `hydra_plugins/`), so that a wrong `-S` override fails before anything is touched.
"""

import dataclasses
import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from pipeline.errors import ConfigError, report_problems


def key(
    help: str,
    *,
    unit: str = "",
    minimum: int | float | None = None,
    maximum: int | float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:  # noqa: ANN401
    """Declare one parameter; its value comes from `conf/`."""
    facts = {"help": help, "unit": unit, "minimum": minimum, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=MISSING, metadata=facts)


def section(kind: type) -> Any:  # noqa: ANN401
    """Declare a group of parameters."""
    return dataclasses.field(default_factory=kind)


@dataclass
class Conflicts:
    """The built-in world (`data.source=conflicts`)."""

    num_documents: int = key("documents to fine-tune on", minimum=10)
    num_pretrain_documents: int = key("other documents, for a scratch model", minimum=10)
    num_contests: int = key("held-out contests that measure which side is taken", minimum=2)


@dataclass
class Data:
    """What is trained on."""

    source: str = key("where rows come from", choices=("conflicts", "jsonl"))
    path: str | None = key("a JSONL file, or a folder of them (for data.source=jsonl)")
    arrangement: str = key(
        "how documents fill a batch; auto: bucketed on a CPU, packed where attention is fused",
        choices=("auto", "bucketed", "packed"),
    )
    max_seq_len: int | None = key(
        "longest document; null: the model's positions, at most 2048", unit="tokens", minimum=8
    )
    long_documents: str = key(
        "what happens to longer ones", choices=("truncate", "split", "refuse")
    )
    max_bad_rows: int = key("rows that may go to quarantine before the stage stops", minimum=0)
    max_line_bytes: int = key("longest line of a JSONL file", unit="bytes", minimum=64)
    validation_fraction: float = key(
        "share of documents held out for validation", minimum=0, maximum=0.9
    )
    test_fraction: float = key("share held out for the last judgement", minimum=0, maximum=0.9)
    conflicts: Conflicts = section(Conflicts)


@dataclass
class Scratch:
    """A new small Llama; the names are those of its `config.json`."""

    vocab_size: int = key("tokens of the tokenizer to train", minimum=260, maximum=262144)
    hidden_size: int = key("width of the residual stream", minimum=8, maximum=65536)
    intermediate_size: int = key("width inside the MLP", minimum=8, maximum=262144)
    num_hidden_layers: int = key("blocks", minimum=1, maximum=1000)
    num_attention_heads: int = key("query heads", minimum=1)
    num_key_value_heads: int = key("key and value heads", minimum=1)
    max_position_embeddings: int = key("longest sequence", unit="tokens", minimum=8)
    rope_theta: float = key("base of the rotary frequencies", minimum=1)
    rms_norm_eps: float = key("added to the mean square before its root", minimum=0)
    tie_word_embeddings: bool = key("use the embedding as output head too")


@dataclass
class Pretrain:
    """How a scratch model learns its language, before the fine-tuning."""

    num_steps: int = key("optimizer steps", minimum=1, maximum=10**9)
    batch_size: int = key("documents a step", minimum=1)
    learning_rate: float = key("peak of the schedule", minimum=0)
    warmup_fraction: float = key("share of the steps that warm up", minimum=0, maximum=1)
    weight_decay: float = key("decoupled decay of the weights", minimum=0)


@dataclass
class Model:
    """The base model."""

    source: str = key("`scratch`, a Hugging Face folder, or a hub id (needs allow_network)")
    revision: str | None = key("branch, tag or commit of a hub id; null: its main branch")
    allow_network: bool = key("download a hub id")
    dtype: str = key(
        "type to compute in; auto: float32 on a CPU, else as stored",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    scratch: Scratch | None = key("the shape of a scratch model; null otherwise")
    pretrain: Pretrain | None = key("its pretraining; null otherwise")


@dataclass
class Lora:
    """Low-rank adapters (arXiv 2106.09685); read when train.mode=lora."""

    rank: int = key("width of the bottleneck", minimum=1)
    alpha: float = key("scale of the update times rank: scale = alpha / rank", minimum=0)
    dropout: float = key("share of adapter inputs dropped", minimum=0, maximum=0.99)
    num_layers: int | None = key("adapt this many last blocks; null: all", minimum=1)
    targets: list[str] = key("linear layers, by name or pattern (`*` is all of them)")


@dataclass
class Optim:
    """AdamW with bias correction and a warmup-cosine schedule."""

    learning_rate: float = key("peak of the schedule", minimum=0)
    weight_decay: float = key("decoupled decay of the weights", minimum=0)
    warmup_fraction: float = key("share of train.num_steps that warms up", minimum=0, maximum=1)
    final_fraction: float = key(
        "share of the peak that the last step still has", minimum=0, maximum=1
    )


@dataclass
class Distrust:
    """Weights from provenance."""

    mode: str = key(
        "none: every document counts the same; weighted: by its provenance",
        choices=("none", "weighted"),
    )
    min_weight: float = key("least weight of a document", minimum=0, maximum=1)
    max_weight: float = key("greatest weight of a document", minimum=1)


@dataclass
class Objective:
    """What is minimised: token-weighted cross-entropy in nats."""

    distrust: Distrust = section(Distrust)


@dataclass
class Train:
    """The training run."""

    mode: str = key("what is trained", choices=("lora", "full"))
    num_steps: int = key("optimizer steps", minimum=1, maximum=10**9)
    batch_size: int | None = key("documents a step (or give batch_tokens)", minimum=1)
    batch_tokens: int | None = key("tokens a step, at most (or give batch_size)", minimum=1)
    grad_accumulation_steps: int = key(
        "micro-batches that a step's documents are split into; the result is the same", minimum=1
    )
    grad_checkpoint: bool = key("recompute each block in the backward pass, to save memory")
    max_grad_norm: float | None = key("clip the gradient's global norm; null: never", minimum=0)
    steps_per_eval: int = key("steps between two validations", minimum=1)
    steps_per_save: int = key("steps between two checkpoints", minimum=1)
    validation_documents: int | None = key("validate on the first ones; null: all", minimum=1)
    keep_checkpoints: int = key("newest checkpoints to keep", minimum=2)
    on_non_finite: str = key(
        "when a loss or gradient is not finite: stop, or skip that step",
        choices=("stop", "skip"),
    )
    reload_interval_steps: int = key(
        "a new process goes on after every so many steps, to the same bits; 0: never", minimum=0
    )
    reload_memory_threshold_gb: float | None = key(
        "a new process goes on when the footprint passes this; null: only at the limit",
        unit="GB of 10^9 bytes",
        minimum=0,
    )
    memory_limit_gb: float | None = key(
        "footprint that is never passed; null: 0.8 of what machine or cgroup grants, at most 120",
        unit="GB of 10^9 bytes",
        minimum=0,
    )
    shrink_on_oom: bool = key(
        "split micro-batches when memory runs out again and again; the bits change then"
    )
    hang_timeout_seconds: float = key(
        "end and replace a process that is silent for so long", unit="s", minimum=1
    )
    resume: str = key(
        "auto: go on from a checkpoint of this very run; never: start afresh; required: insist",
        choices=("auto", "never", "required"),
    )
    resume_allow_inexact: bool = key(
        "go on also where numbers come out differently now than when the checkpoint was made"
    )


@dataclass
class Export:
    """What is written out, and proven."""

    checkpoint: str = key("which weights", choices=("final", "best"))
    formats: list[str] = key("adapter (mlx-lm), fused (Hugging Face safetensors, float32)")


@dataclass
class Validate:
    """Base and tuned model side by side."""

    documents: int | None = key("held-out documents for perplexity; null: all", minimum=2)
    num_samples: int = key("greedy continuations to write down", minimum=1)
    sample_tokens: int = key("longest continuation", unit="tokens", minimum=1)


@dataclass
class Benchmark:
    """How fast, and how near to what the machine can do."""

    num_steps: int = key("training steps that are timed", minimum=1)
    prompt_tokens: int = key("prompt of the timed generation", unit="tokens", minimum=1)
    generated_tokens: int = key("tokens to generate", unit="tokens", minimum=2)
    num_runs: int = key("repetitions; medians are reported", minimum=1)


@dataclass
class Debug:
    """Faults and shortcuts, to see how the training takes them; all off by default."""

    leak_mb_per_step: float = key(
        "memory to hold on to in every step", unit="MB of 10^6 bytes", minimum=0
    )
    kill_at_step: int | None = key("kill the worker after this step, once; null: never", minimum=1)
    overfit_one_batch: bool = key("train on the documents of the first step again and again")
    profile: bool = key("write where the time of the steps goes to plots/profile.csv")


@dataclass
class Params:
    """All parameters of a run."""

    seed: int = key("of data order, initial weights and dropout", minimum=0)
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
    plan_only: bool = key("train: print what memory and time it would take, and end")
    status: bool = key("train: print how far the running trainings are, and end")
    inputs: Any = None
    """In params.yaml: size and hash of each external file. By hand: an earlier run's folder."""


def register() -> None:
    """Make the schema known to Hydra, in the stages and inside the `dvc` process alike."""
    ConfigStore.instance().store(name="schema", node=Params)


def leaves(kind: type = Params, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Give every parameter of the schema by its dotted name."""
    for field in dataclasses.fields(kind):
        nested = nested_section(field)
        if nested is None:
            yield prefix + field.name, field
        else:
            yield from leaves(nested, f"{prefix}{field.name}.")


def nested_section(field: dataclasses.Field) -> type | None:
    """Find the dataclass behind a field, also behind `Scratch | None`."""
    candidates = getattr(field.type, "__args__", (field.type,))
    kinds = [kind for kind in candidates if isinstance(kind, type)]
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)


def known_names() -> set[str]:
    """List every parameter and every section by its dotted name."""
    names = {name for name, _ in leaves()}
    return names | {name[:i] for name in names for i, char in enumerate(name) if char == "."}


def nearest(name: str) -> str | None:
    """Find the parameter whose name is most like this one; the same key elsewhere comes first."""
    known = sorted(known_names())
    elsewhere = [other for other in known if other.endswith("." + name.rpartition(".")[2])]
    like = difflib.get_close_matches(name, elsewhere, n=1, cutoff=0)
    return next(iter(like or difflib.get_close_matches(name, known, n=1)), None)


def check_known(names: list[str]) -> None:
    """Refuse names that no parameter has, each with the nearest one that exists.

    Raises:
        ConfigError: with every unknown name.
    """
    problems = []
    for name in names:
        if name not in known_names():
            near = nearest(name)
            problems.append(f"unknown key {name}" + (f"; did you mean {near}?" if near else ""))
    report_problems(
        ConfigError, "conf/ has no such parameter:", problems, "`--help` lists those there are."
    )


def inside(name: str, sections: Collection[str]) -> bool:
    """Tell whether a parameter is one of these sections and keys, or stands in one."""
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def check_values(config: DictConfig, sections: Collection[str] | None = None) -> None:
    """Refuse values out of range, all at once; `OmegaConf` has checked the types already.

    Args:
        config: the whole configuration.
        sections: where a value must not be missing; everywhere if None.

    Raises:
        ConfigError: with every key, its value, and what it may be.
    """
    missing = OmegaConf.missing_keys(config)
    needed = sorted(name for name in missing if sections is None or inside(name, sections))
    problems = [f"{name} has no value; give one: {name}=..." for name in needed]
    for name, field in leaves():
        value = None if inside(name, missing) else OmegaConf.select(config, name)
        if value is not None and field.metadata:
            problems += [f"{name}={value}: {rule}" for rule in broken_rules(field, value)]
    problems += contradictions(config)
    report_problems(ConfigError, "These parameters cannot be used:", problems)


def broken_rules(field: dataclasses.Field, value: Any) -> Iterator[str]:  # noqa: ANN401
    """Say which rules of its field a value breaks."""
    facts = field.metadata
    if facts["choices"] and value not in facts["choices"]:
        yield "must be one of " + ", ".join(facts["choices"])
    if facts["minimum"] is not None and not value >= facts["minimum"]:
        yield f"must be at least {facts['minimum']}"
    if facts["maximum"] is not None and not value <= facts["maximum"]:
        yield f"must be at most {facts['maximum']}"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        yield "must be finite"


def shown(value: int | None) -> str:
    """Write a value as `conf/` has it."""
    return "null" if value is None else str(value)


def contradictions(config: DictConfig) -> Iterator[str]:
    """Say which parameters are right alone and wrong together."""
    data, model, train = config.data, config.model, config.train
    if not OmegaConf.missing_keys(data):
        if data.validation_fraction + data.test_fraction >= 1:
            yield (
                f"data.validation_fraction={data.validation_fraction} and "
                f"data.test_fraction={data.test_fraction}: they leave nothing to train on"
            )
        if data.source == "jsonl" and data.path is None:
            yield "data.source=jsonl needs data.path=FILE_OR_FOLDER"
    if not OmegaConf.missing_keys(model):
        scratch = model.source == "scratch"
        if scratch != (model.scratch is not None) or scratch != (model.pretrain is not None):
            yield (
                f"model.source={model.source} does not go with this model group; "
                "choose model=tiny for a scratch model, model=local for one that exists"
            )
    if not OmegaConf.missing_keys(train) and (train.batch_size is None) == (
        train.batch_tokens is None
    ):
        yield (
            f"train.batch_size={shown(train.batch_size)} and "
            f"train.batch_tokens={shown(train.batch_tokens)}: give one, and set the other to null"
        )
    if not OmegaConf.missing_keys(config.export):
        wrong = sorted(set(config.export.formats) - {"adapter", "fused"})
        if wrong or not config.export.formats:
            yield f"export.formats={wrong}: must be some of adapter, fused"
