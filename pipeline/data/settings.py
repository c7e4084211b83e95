"""Settings of the preparation, and what follows from them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.config.options import ProvenanceTables
from pipeline.config.rules import overlap_problem
from pipeline.data.rows.formats import COLUMNS, RowReader
from pipeline.errors import ConfigError, report_problems


@dataclass(frozen=True)
class PrepareSettings:
    """What `data.*` says, and what the model has to do with it.

    What has a default is of one source only, and is not read by the others.

    Attributes:
        seed: of the built-in world.
        source: `conflicts`, `huggingface`, `jsonl` or `stdlib`.
        path: a JSONL file or a folder of them, the folder of the data set or that of the standard
            library; None for the built-in world.
        format: what rows look like: `plain` (docs/data.md), `alpaca`, `sharegpt`, or `auto`.
        columns: names of columns in the rows, and the names they stand for.
        chat_template: a file that replaces the chat template of the tokenizer; None: it stays.
        template_kwargs: what the chat template's variables are where they are not given.
        subset: of the data set; None: the only one.
        split: of the data set, the one to read.
        max_seq_len: longest document, in tokens.
        long_documents: what happens to a longer one: truncate, split or refuse.
        overlap_tokens: how many tokens a piece of a split document reads again.
        train_on: which answers of a conversation are learnt: all, or the last.
        turns: whether a conversation is one document, or one for each answer (docs/data.md).
        control_tokens: whether control tokens that rows hold as text are kept, or refused.
        max_bad_rows: rows that may be left out.
        max_line_bytes: longest line of a file.
        validation_fraction: share of the documents, by hash.
        test_fraction: share of the documents, by hash.
        tokenizer_source: the model's folder; None: train a tokenizer on the training split.
        vocab_size: of the model that exists, or of the tokenizer to train.
        num_documents: of the built-in world, to fine-tune on.
        num_pretrain_documents: of the built-in world, for a new model to learn the language.
        num_contests: of the built-in world, in the suite.
        provenance: how to score rows that carry no provenance; None: they stay without.
    """

    seed: int
    source: str
    path: Path | None
    max_seq_len: int
    long_documents: str
    overlap_tokens: int
    train_on: str
    max_bad_rows: int
    max_line_bytes: int
    validation_fraction: float
    test_fraction: float
    tokenizer_source: Path | None
    vocab_size: int
    turns: str = "auto"
    control_tokens: str = "keep"
    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    chat_template: Path | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    subset: str | None = None
    split: str = ""
    num_documents: int = 0
    num_pretrain_documents: int = 0
    num_contests: int = 0
    provenance: ProvenanceTables | None = None

    def __post_init__(self) -> None:
        """Refuse pieces that would be nothing but context, and unknown names of columns.

        Raises:
            ConfigError: with the values.
        """
        problem = overlap_problem(self.overlap_tokens, self.max_seq_len)
        if problem is not None:
            raise ConfigError(problem)
        check_columns(self.columns)

    @property
    def reader(self) -> RowReader:
        """What makes records of the rows of files."""
        return RowReader(self.format, self.columns, self.provenance is not None)


def scoring_tables(provenance: DictConfig) -> ProvenanceTables | None:
    """Return the tables of the provenance scorer (`data.provenance`); None where it is off."""
    tables: Any = OmegaConf.to_container(provenance.tables) if provenance.tables else None
    return tables and ProvenanceTables(**tables)


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse names that no column can be given, and two columns of one name.

    Raises:
        ConfigError: with each of them.
    """
    given = Counter(columns.values())
    problems = [
        f"{theirs}: {ours}" + (" (unknown)" if ours not in COLUMNS else " (given twice)")
        for theirs, ours in columns.items()
        if ours not in COLUMNS or given[ours] > 1
    ]
    remedy = f"It maps a name in your rows to one of: {', '.join(COLUMNS)}."
    report_problems(ConfigError, "data.columns has names that cannot be used:", problems, remedy)
