"""What all programs read: a tokenizer, a model and rows, which each comparison makes."""

import dataclasses
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from pipeline.data.preparation.prepare import prepare
from pipeline.data.settings import PrepareSettings
from pipeline.data.sources.stdlib import decoded
from pipeline.data.tokenize.tokenizer import load_tokenizer
from pipeline.device import mx
from pipeline.errors import DataError
from pipeline.external.paths import external
from pipeline.external.stdlib import stdlib_files, stdlib_root
from pipeline.external.tokenizer_files import tokenizer_hash
from pipeline.model.network.base import write_manifest
from pipeline.model.scratch import FINAL_NORM, initialize, llama_config, save_scratch

SAMPLES = "TIDEWHEEL_SAMPLES"
SHORTEST, LONGEST = 100, 600
"""Characters of a passage of source code that becomes a row."""
MAX_LINE_BYTES = 1 << 24


@dataclass(frozen=True)
class Corpus:
    """Texts to train on, texts to score, and the name of where they come from."""

    name: str
    train: list[str]
    validation: list[str]


@dataclass(frozen=True)
class Material:
    """A model and rows, in the form that each program reads.

    Attributes:
        model: folder of a whole model, tokenizer and manifest included.
        rows: folder with `train.jsonl` alone: with `valid.jsonl` mlx-lm would validate.
        prepared: token stores of the same rows, and of the rows to score.
        num_rows: rows of `train.jsonl`.
    """

    model: Path
    rows: Path
    prepared: Path
    num_rows: int


def find_corpus(folder: str | None) -> Corpus:
    """Read the rows of a folder, else WikiSQL from the samples, else passages of source code.

    Args:
        folder: `benchmark.peers.rows`, with `train.jsonl` and `valid.jsonl`; None: there is none.

    Raises:
        DataError: when the folder has no such rows.
    """
    if folder is not None:
        return read_corpus(external(folder), folder)
    samples = os.environ.get(SAMPLES)
    if samples and external(f"{samples}/data/wikisql").is_dir():
        return read_corpus(external(f"{samples}/data/wikisql"), "WikiSQL")
    passages = sorted(source_passages(), key=lambda text: hashlib.sha256(text.encode()).digest())
    cut = len(passages) // 10
    name = f"standard library of Python {platform.python_version()}"
    return Corpus(name, passages[cut:], passages[:cut])


def read_corpus(folder: Path, name: str) -> Corpus:
    """Read the texts of two files.

    Raises:
        DataError: when a file is missing or has no rows, or a row has no text.
    """
    parts = []
    for file in ("train.jsonl", "valid.jsonl"):
        try:
            lines = (folder / file).read_text(encoding="utf-8").splitlines()
            parts.append([str(json.loads(line)["text"]) for line in lines if line.strip()])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"benchmark.peers.rows: {folder / file} cannot be used ({error!r}).\n"
                'Name a folder with train.jsonl and valid.jsonl, all rows {"text": ...}; or null.'
            ) from error
        if not parts[-1]:
            raise DataError(
                f"benchmark.peers.rows: {folder / file} has no rows.\n"
                'Write rows {"text": ...} into it, name another folder, or null.'
            )
    return Corpus(name, *parts)


def require_batch(corpus: Corpus, batch_size: int) -> None:
    """Refuse a batch that the rows cannot fill, because some programs would wait forever.

    Raises:
        DataError: when there are fewer rows than that.
    """
    if len(corpus.train) < batch_size:
        raise DataError(
            f"benchmark.peers.batch_size={batch_size}: there are only {len(corpus.train)} rows to "
            f"train on ({corpus.name}).\n"
            "Take a smaller batch_size, or name a folder with more rows: benchmark.peers.rows=..."
        )


def source_passages() -> Iterator[str]:
    """Yield each passage between blank lines of the standard library's source, once."""
    seen = set[str]()
    for file in stdlib_files(stdlib_root()):
        for passage in (decoded(file.read_bytes()) or "").split("\n\n"):
            text = passage.strip()
            if SHORTEST <= len(text) <= LONGEST and text not in seen:
                seen.add(text)
                yield text


def make_model(folder: Path, shape: dict[str, Any], tokenizer: Path, seed: int) -> None:
    """Make a model with random weights.

    Args:
        folder: where to write it; it must not exist.
        shape: the keys of `model.scratch`; the vocabulary may be larger than the tokenizer's.
        tokenizer: folder of the tokenizer.
        seed: of the weights.
    """
    shutil.copytree(tokenizer, folder)
    loaded = load_tokenizer(folder)
    ids = {f"{name}_token_id": getattr(loaded, f"{name}_token_id") for name in ("bos", "eos")}
    config = llama_config(shape, shape["vocab_size"], ids)
    model = initialize(config, seed)
    # As large as in a trained model. An adapter cannot reach it, and would learn little.
    model.load_weights([(FINAL_NORM, mx.ones(shape["hidden_size"]))], strict=False)
    save_scratch(model, config, folder)
    write_manifest(folder, folder, "benchmark", tokenizer_hash(folder))


def make_material(folder: Path, model: Path, corpus: Corpus, shape: dict[str, Any]) -> Material:
    """Write the same texts as rows for other programs, and as token stores for ours."""
    rows, both = folder / "rows", folder / "both"
    for place in (rows, both):
        write_rows(place / "train.jsonl", corpus.train)
    write_rows(both / "valid.jsonl", corpus.validation)
    (folder / "prepared").mkdir()
    prepare(prepare_settings(both, model, shape), folder / "prepared")
    return Material(model, rows, folder / "prepared", len(corpus.train))


def write_rows(path: Path, texts: list[str]) -> None:
    """Write a JSONL file of `text` rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_text("".join(lines), encoding="utf-8")


def prepare_settings(rows: Path, tokenizer: Path, shape: dict[str, Any]) -> PrepareSettings:
    """Return the settings with which the prepare stage would prepare rows for an existing model."""
    return PrepareSettings(
        seed=0,
        source="jsonl",
        path=rows,
        max_seq_len=shape["max_position_embeddings"],
        long_documents="truncate",
        overlap_tokens=0,
        train_on="all",
        max_bad_rows=0,
        max_line_bytes=MAX_LINE_BYTES,
        validation_fraction=0.0,
        test_fraction=0.0,
        tokenizer_source=tokenizer,
        vocab_size=shape["vocab_size"],
    )


def shortened(corpus: Corpus, num_train: int, num_validation: int) -> Corpus:
    """Take the first texts of each part."""
    return dataclasses.replace(
        corpus, train=corpus.train[:num_train], validation=corpus.validation[:num_validation]
    )


def joined(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, num_tokens: int, count: int
) -> Corpus:
    """Join texts, and cut them into `count` long ones of about `num_tokens` each.

    Two tokens are left free: one for the end of the text, and one because a word that is cut in two
    may be encoded differently.
    """
    ids = tokenizer.encode(" ".join(corpus.train))
    rows = np.resize(ids, (count, num_tokens - 2)).tolist()
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    return dataclasses.replace(corpus, train=texts, validation=texts[:1])
