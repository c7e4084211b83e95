"""Which parameters there are: type, unit, range, and what each one does.

Values stand in `conf/` only. This module imports nothing heavy, because the `dvc` process loads
it too (through `hydra_plugins/`), so that a wrong `-S` override fails before anything is touched.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from pipeline.external.sources import SOURCES


def key(
    help: str,
    *,
    unit: str = "",
    minimum: int | float | None = None,
    maximum: int | float | None = None,
    choices: tuple[str | int, ...] = (),
) -> Any:  # noqa: ANN401
    """Declare one parameter; its value comes from `conf/`."""
    facts = {"help": help, "unit": unit, "minimum": minimum, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=MISSING, metadata=facts)


def section(kind: type) -> Any:  # noqa: ANN401
    """Declare a group of parameters."""
    return dataclasses.field(default_factory=kind)


MOST = 10**9
"""Of steps and documents: more would not end, and is a slip of the keyboard."""
LONGEST = 10**8
"""Tokens of a sequence."""
LARGEST_BETA = 0.999999
"""Nearer to 1, an average would not forget within float32."""


SCHEDULES: dict[str, dict[str, bool]] = {
    "constant": {"final_fraction": False, "decay_fraction": False},
    "linear": {"final_fraction": True},
    "cosine": {"final_fraction": True},
    "wsd": {"final_fraction": True, "decay_fraction": True},
}
"""Of each schedule the keys that it needs (true), and those that it would not read (false)."""


@dataclass
class Unused:
    """A section that another option of its group has.

    It stays, empty, because DVC refuses to run a stage when a key that dvc.yaml names is missing.
    """


@dataclass
class Conflicts(Unused):
    """The built-in world (`data.source=conflicts`)."""

    num_documents: int = key("documents to fine-tune on", minimum=10, maximum=MOST)
    num_pretrain_documents: int = key(
        "other documents, for a scratch model", minimum=10, maximum=MOST
    )
    num_contests: int = key(
        "held-out contests that measure which side is taken", minimum=2, maximum=MOST
    )


@dataclass
class HuggingFace(Unused):
    """A data set as the `datasets` library reads it (`data.source=huggingface`)."""

    name: str = key("a folder, or a hub id (needs data.allow_network)")
    subset: str | None = key("one of its configurations; null: the only one")
    split: str = key("which of its splits to read; ours are drawn from it")
    revision: str | None = key("branch, tag or commit of a hub id; null: its main branch")


@dataclass
class ProvenanceTables:
    """What the provenance scorer looks up; docs/provenance.md has the formulas."""

    base_authority: float = key(
        "authority weight of a text that says nothing of it", minimum=0.01, maximum=0.99
    )
    repeat_exponent: float = key(
        "n markers of one class count as n to this power", minimum=0.1, maximum=1
    )
    text_share: float = key(
        "how much markers in the text count where source_type is known", minimum=0, maximum=1
    )
    mention_share: float = key(
        "how much an institution counts that is named and is not the publisher",
        minimum=0,
        maximum=1,
    )
    markers: dict[str, list[str]] = key("classes of markers, and the phrases of each")
    authority: dict[str, float] = key("what a marker of a class does", unit="log-odds")
    evidence: dict[str, float] = key("independent evidence in a marker", unit="pieces")
    doubt: dict[str, float] = key(
        "how much a marker stands in for evidence", unit="pieces divide by 1 + doubt"
    )
    institutions: dict[str, float] = key("institutions by name", unit="log-odds")
    domains: dict[str, float] = key("hosts, with all below them", unit="log-odds")
    type_authority: dict[str, float] = key("authority weight by source_type, 0 to 0.99")
    type_entropy: dict[str, float] = key("provenance entropy by source_type", unit="bits")
    years: list[int] = key("years that part the bands")
    year_authority: list[float] = key("of each band, oldest first", unit="log-odds")
    year_evidence: list[float] = key("of each band, oldest first", unit="pieces")
    year_patterns: list[str] = key("how a text states its own year, as group 1")


@dataclass
class Provenance:
    """How rows that carry no provenance are scored."""

    scorer: str = key("none: they are not; heuristic: by the tables", choices=("none", "heuristic"))
    tables: ProvenanceTables | None = key(
        "what the scorer looks up, with data/provenance=heuristic"
    )


@dataclass
class Data:
    """What is trained on."""

    source: str = key("where rows come from", choices=tuple(SOURCES))
    path: str | None = key("a JSONL file, or a folder of them (for data.source=jsonl)")
    arrangement: str = key(
        "how documents fill a batch; auto: bucketed on a CPU, packed where attention is fused",
        choices=("auto", "bucketed", "packed"),
    )
    max_seq_len: int | None = key(
        "longest document; null: the model's positions, at most 2048",
        unit="tokens",
        minimum=8,
        maximum=LONGEST,
    )
    long_documents: str = key(
        "what happens to longer ones", choices=("truncate", "split", "refuse")
    )
    overlap_tokens: int = key(
        "context that a piece of a split document reads again, and does not learn again",
        unit="tokens",
        minimum=0,
        maximum=LONGEST,
    )
    train_on: str = key("which answers of a conversation are learnt", choices=("all", "last"))
    max_bad_rows: int = key(
        "rows that may go to quarantine before the stage stops", minimum=0, maximum=MOST
    )
    max_line_bytes: int = key(
        "longest line of a JSONL file", unit="bytes", minimum=64, maximum=2**40
    )
    validation_fraction: float = key(
        "share of documents held out for validation", minimum=0, maximum=0.9
    )
    test_fraction: float = key("share held out for the last judgement", minimum=0, maximum=0.9)
    allow_network: bool = key("download a hub id")
    provenance: Provenance = section(Provenance)


@dataclass
class RowsData(Data):
    """`data=jsonl` and `data=stdlib`."""

    huggingface: Unused = section(Unused)
    conflicts: Unused = section(Unused)


@dataclass
class ConflictsData(Data):
    """`data=conflicts`."""

    huggingface: Unused = section(Unused)
    conflicts: Conflicts = section(Conflicts)


@dataclass
class HuggingFaceData(RowsData):
    """`data=huggingface`, which extends data=jsonl."""

    huggingface: HuggingFace = section(HuggingFace)  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass
class Scratch(Unused):
    """A new small Llama; the names are those of its `config.json`."""

    vocab_size: int = key("tokens of the tokenizer to train", minimum=260, maximum=262144)
    hidden_size: int = key("width of the residual stream", minimum=8, maximum=65536)
    intermediate_size: int = key("width inside the MLP", minimum=8, maximum=262144)
    num_hidden_layers: int = key("blocks", minimum=1, maximum=1000)
    num_attention_heads: int = key("query heads", minimum=1, maximum=4096)
    num_key_value_heads: int = key("key and value heads", minimum=1, maximum=4096)
    max_position_embeddings: int = key(
        "longest sequence", unit="tokens", minimum=8, maximum=LONGEST
    )
    rope_theta: float = key("base of the rotary frequencies", minimum=1, maximum=10**12)
    rms_norm_eps: float = key("added to the mean square before its root", minimum=0, maximum=1)
    tie_word_embeddings: bool = key("use the embedding as output head too")


@dataclass
class Pretrain:
    """How a scratch model learns its language, before the fine-tuning."""

    num_steps: int = key("optimizer steps", minimum=1, maximum=MOST)
    batch_size: int = key("documents a step", minimum=1, maximum=10**6)
    learning_rate: float = key("peak of the schedule", minimum=0, maximum=1000)
    warmup_fraction: float = key("share of the steps that warm up", minimum=0, maximum=1)
    weight_decay: float = key("decoupled decay of the weights", minimum=0, maximum=1000)


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
    quantize_bits: int | None = key(
        "pack the base's weights into so many bits, for lora, dora and head; null: as stored",
        choices=(4, 8),
    )
    quantize_group_size: int = key(
        "packed weights that share a scale; it must divide the width of every layer",
        choices=(32, 64, 128),
    )


@dataclass
class FolderModel(Model):
    """A model that exists."""

    scratch: Unused = section(Unused)


@dataclass
class ScratchModel(Model):
    """A model that is made here (`model.source=scratch`)."""

    scratch: Scratch = section(Scratch)
    pretrain: Pretrain = section(Pretrain)


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
class Optim:
    """What every optimizer has: a learning rate and its schedule."""

    name: str = key(
        "the update rule; choose it with optim=NAME, which sets its keys too",
        choices=("adamw", "adam", "sgd", "lion", "muon", "adafactor"),
    )
    learning_rate: float = key("peak of the schedule", minimum=0, maximum=1000)
    schedule: str = key(
        "what follows the warm-up; wsd stays at the peak before it falls",
        choices=tuple(SCHEDULES),
    )
    warmup_fraction: float = key("share of train.num_steps that warms up", minimum=0, maximum=1)
    decay_fraction: float | None = key(
        "share of train.num_steps, at the end, in which it falls; null: all after the warm-up",
        minimum=0,
        maximum=1,
    )
    final_fraction: float | None = key(
        "share of the peak that the last step still has; null: it never falls", minimum=0, maximum=1
    )


@dataclass
class DecayingOptim(Optim):
    """An optimizer that also shrinks the weights."""

    weight_decay: float = key(
        "decay of the weights, apart from the gradient (sgd: added to it)", minimum=0, maximum=1000
    )
    no_decay: list[str] = key("tensors without weight decay, by pattern of their names")


def beta1() -> Any:  # noqa: ANN401
    """Declare how slowly a mean of gradients forgets."""
    return key("how slowly the mean of gradients forgets", minimum=0, maximum=LARGEST_BETA)


def beta2() -> Any:  # noqa: ANN401
    """Declare how slowly a mean of squared gradients forgets."""
    text = "how slowly the mean of squared gradients forgets (lion: of gradients)"
    return key(text, minimum=0, maximum=LARGEST_BETA)


def eps() -> Any:  # noqa: ANN401
    """Declare what is added to a divisor."""
    text = "keeps from dividing by zero: added to the root (adafactor: to the square)"
    return key(text, minimum=0, maximum=1)


def momentum() -> Any:  # noqa: ANN401
    """Declare how much of a velocity is kept."""
    return key("share of the velocity that is kept", minimum=0, maximum=LARGEST_BETA)


@dataclass
class Adam(Optim):
    """`optim=adam`."""

    beta1: float = beta1()
    beta2: float = beta2()
    eps: float = eps()


@dataclass
class AdamW(DecayingOptim):
    """`optim=adamw`."""

    beta1: float = beta1()
    beta2: float = beta2()
    eps: float = eps()


@dataclass
class Sgd(DecayingOptim):
    """`optim=sgd`."""

    momentum: float = momentum()


@dataclass
class Lion(DecayingOptim):
    """`optim=lion`."""

    beta1: float = beta1()
    beta2: float = beta2()


@dataclass
class Muon(AdamW):
    """`optim=muon`: AdamW's keys too, for what is no matrix of a block."""

    momentum: float = momentum()


@dataclass
class Adafactor(DecayingOptim):
    """`optim=adafactor`."""

    eps: float = eps()


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
    num_steps: int = key("optimizer steps", minimum=1, maximum=MOST)
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
        "auto: go on from a checkpoint of this very run; never: start afresh; required: insist",
        choices=("auto", "never", "required"),
    )
    resume_allow_inexact: bool = key(
        "go on where numerics or code have changed since the checkpoint; the metrics record it"
    )


EXPORT_FORMATS = {
    "adapter": "mlx-lm",
    "fused": "Hugging Face safetensors, in the type of the base",
}
"""What an export may be, each with who reads it; `pipeline/formats/export.py` has its writer."""


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
    num_samples: int = key("greedy continuations to write down", minimum=1, maximum=10**6)
    sample_tokens: int = key("longest continuation", unit="tokens", minimum=1, maximum=LONGEST)


@dataclass
class Peers:
    """Other programs that train the same (benchmark=peers), and small models made for that."""

    parts: list[str] = key(
        "what is measured: all_blocks, as_installed, torch_peft, last_quarter, head, "
        "large_vocabulary, sweep, surroundings"
    )
    rows: str | None = key(
        "folder of train.jsonl and valid.jsonl with text rows; null: WikiSQL in the folder that "
        "TIDEWHEEL_SAMPLES names, else passages of Python's standard library"
    )
    num_rows: int = key("rows to train on, at most", minimum=4, maximum=MOST)
    validation_rows: int = key("rows to score adapters on, at most", minimum=1, maximum=MOST)
    epoch_rows: int = key("rows of an epoch where epochs are compared", minimum=4, maximum=MOST)
    batch_size: int = key("rows a step", minimum=1, maximum=10**6)
    sweep_rows: int = key("rows of an epoch of the sweep", minimum=4, maximum=MOST)
    learning_rate: float = key("constant learning rate of all contestants", minimum=0, maximum=1000)
    rank: int = key("of LoRA, on q and v", minimum=1, maximum=65536)
    installed_steps: int = key(
        "timed steps of mlx-lm as installed, which is slow", minimum=1, maximum=MOST
    )
    torch_steps: int = key("timed steps of torch and peft", minimum=1, maximum=MOST)
    long_row_tokens: int = key(
        "rows for the large vocabulary are joined to this",
        unit="tokens",
        minimum=8,
        maximum=LONGEST,
    )
    model: Scratch = section(Scratch)
    large_vocabulary: Scratch = section(Scratch)


@dataclass
class Benchmark:
    """How fast, and how near to what the machine can do."""

    num_steps: int = key(
        "training steps that are timed; with peers, of each run", minimum=1, maximum=MOST
    )
    num_runs: int = key("repetitions; medians are reported", minimum=1, maximum=10**4)


@dataclass
class Throughput(Benchmark):
    """`benchmark=default`: ourselves alone."""

    prompt_tokens: int = key(
        "prompt of the timed generation", unit="tokens", minimum=1, maximum=LONGEST
    )
    generated_tokens: int = key("tokens to generate", unit="tokens", minimum=2, maximum=LONGEST)


@dataclass
class PeersBenchmark(Benchmark):
    """`benchmark=peers`: compared with other programs."""

    peers: Peers = section(Peers)


@dataclass
class Debug:
    """Faults and shortcuts, to see how the training takes them; all off by default."""

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


DATA_SECTIONS: dict[str, type[Data]] = {
    "conflicts": ConflictsData,
    "huggingface": HuggingFaceData,
    "jsonl": RowsData,
    "stdlib": RowsData,
}
OPTIMIZERS: dict[str, type[Optim]] = {
    "adamw": AdamW,
    "adam": Adam,
    "sgd": Sgd,
    "lion": Lion,
    "muon": Muon,
    "adafactor": Adafactor,
}
OPTIONS: dict[str, dict[str, type]] = {
    "data": DATA_SECTIONS,
    "model": {"scratch": ScratchModel, "folder": FolderModel},
    "optim": OPTIMIZERS,
    "benchmark": {"throughput": Throughput, "peers": PeersBenchmark},
}
"""The keys that an option of a group has; its file in conf/ begins with `NAME_schema`."""


def register() -> None:
    """Make the schema known to Hydra, in the stages and inside the `dvc` process alike."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Params)
    for group, kinds in OPTIONS.items():
        for name, kind in kinds.items():
            store.store(group=group, name=f"{name}_schema", node=kind)
