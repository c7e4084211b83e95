"""The keys that each option of `data`, `model` and `benchmark` has, and where options are named."""

from dataclasses import dataclass
from typing import Any

from pipeline.config.declare import LONGEST, MOST, key, section
from pipeline.config.optimizers import OPTIMIZERS
from pipeline.external.sources import SOURCES


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
    turns: str = key(
        "a conversation is one document, or one for each answer that is learnt; auto: one where "
        "later messages do not change what the model is given",
        choices=("auto", "joined", "separate"),
    )
    control_tokens: str = key(
        "control tokens of the model that rows hold as text", choices=("keep", "refuse")
    )
    format: str = key(
        "what rows look like; plain: as docs/data.md has it; auto: by their columns",
        choices=("auto", "plain", "alpaca", "sharegpt"),
    )
    columns: dict[str, str] = key(
        "renames columns: +data.columns.THEIRS=OURS, OURS as in docs/data.md"
    )
    chat_template: str | None = key(
        "a file in Jinja that replaces the chat template of the model, in what is exported too; "
        "null: the model's own"
    )
    template_kwargs: dict[str, Any] = key(
        "variables of the chat template where they are not given: "
        "+data.template_kwargs.NAME=VALUE; kept in what is exported"
    )
    max_bad_rows: int = key(
        "rows that may go to quarantine before the stage stops", minimum=0, maximum=MOST
    )
    max_line_bytes: int = key(
        "longest line of a JSONL file", unit="bytes", minimum=64, maximum=2**40
    )
    validation_fraction: float = key(
        "share of documents held out for validation", minimum=0, maximum=0.9
    )
    test_fraction: float = key("share held out for the final test", minimum=0, maximum=0.9)
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
    learning_rate: float = key("constant learning rate of all programs", minimum=0, maximum=1000)
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


DATA_SECTIONS: dict[str, type[Data]] = {
    "conflicts": ConflictsData,
    "huggingface": HuggingFaceData,
    "jsonl": RowsData,
    "stdlib": RowsData,
}
OPTIONS: dict[str, dict[str, type]] = {
    "data": DATA_SECTIONS,
    "model": {"scratch": ScratchModel, "folder": FolderModel},
    "optim": OPTIMIZERS,
    "benchmark": {"throughput": Throughput, "peers": PeersBenchmark},
}
"""The keys that an option of a group has; its file in conf/ begins with `NAME_schema`."""
