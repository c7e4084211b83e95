"""The tokenizer: copied from the model without a change, or trained for a new model."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pipeline.data.tokenize.limits import growth_problem, panics_as_errors
from pipeline.data.tokenize.template import ChatTemplate
from pipeline.errors import ModelError
from pipeline.external.inputs import tokenizer_names
from pipeline.external.json_files import Remedy, read_foreign
from pipeline.files import sha256_bytes, sha256_file

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SETTINGS = "tokenizer_config.json"
FOREIGN = Remedy(ModelError, "Fetch the model again, or save it again with transformers.")


def load_tokenizer(folder: Path, named: Path | None = None) -> PreTrainedTokenizerFast:
    """Load a tokenizer from its files; no network is used, and no code from the folder is run.

    Args:
        folder: with its files.
        named: where they come from, as the user knows it; None: the folder.

    Raises:
        ModelError: when a file is missing or damaged, or there is no end-of-sequence token.
    """
    require_tokenizer(folder)
    place = named or folder
    try:
        with panics_as_errors():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the library passes on errors of its parsers, of any type
        reason = str(error).replace(str(folder), str(place))
        raise ModelError(
            f"{place}: the tokenizer cannot be read: {reason}\n"
            "Fetch the model again, or save it again with transformers."
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{place}: the tokenizer names no end-of-sequence token, so no answer could end.\n"
            "Set eos_token in tokenizer_config.json."
        )
    if problem := growth_problem(tokenizer.backend_tokenizer):
        raise ModelError(f"{place}: tokenizer.json: {problem}.\nChoose another model.")
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def require_tokenizer(folder: Path) -> None:
    """Refuse a folder without tokenizer.json.

    Raises:
        ModelError: with what to do about it.
    """
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json.\nWrite one there with transformers: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the largest id plus one; there may be gaps between ids."""
    return max(tokenizer.get_vocab().values()) + 1


def chat_template_of(tokenizer: PreTrainedTokenizerFast) -> ChatTemplate:
    """Return the chat template of a tokenizer, and what else decides what it writes."""
    texts: Any = tokenizer.chat_template
    if not isinstance(texts, dict):
        texts = {"default": texts}
    default, tokens = texts.get("default"), tokenizer.added_tokens_decoder.values()
    return ChatTemplate(
        default,
        texts.get("tool_use", default),
        tokenizer.special_tokens_map,
        tuple(token.content for token in tokens if token.special),
        tuple(token.content for token in tokens),
    )


def train_tokenizer(texts: Iterator[str], vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE tokenizer, which encodes any text and decodes it without loss.

    Args:
        texts: what to train on; memory grows with the number of different words.
        vocab_size: number of tokens; fewer where the texts have not enough pairs to merge.
        folder: where to write the files, which transformers reads.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS
    ).save_pretrained(folder)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files of the tokenizer from a model folder.

    Raises:
        ModelError: when there is no tokenizer.json.
    """
    require_tokenizer(source)
    folder.mkdir(parents=True, exist_ok=True)
    for name in tokenizer_names(source):
        if (source / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)


def tokenizer_hash(folder: Path) -> str:
    """Hash the files of the tokenizer in a folder, and no other files.

    Raises:
        ModelError: when there is no tokenizer.json.
    """
    require_tokenizer(folder)
    return joined_hash(folder, dict.fromkeys(tokenizer_names(folder), sha256_file))


def vocabulary_hash(folder: Path) -> str:
    """Hash what decides the ids of a text, which is all of a tokenizer but its chat templates.

    Raises:
        ModelError: when there is no tokenizer.json.
    """
    require_tokenizer(folder)
    names = (name for name in tokenizer_names(folder) if "chat_template" not in name)
    hashes = dict.fromkeys(names, sha256_file)
    return joined_hash(folder, {**hashes, SETTINGS: settings_hash})


def joined_hash(folder: Path, hashes: Mapping[str, Callable[[Path], str]]) -> str:
    """Hash the files of these names that there are, each by its own function."""
    digest = hashlib.sha256()
    for name, hash_of in hashes.items():
        if (folder / name).is_file():
            digest.update(f"{name}\0{hash_of(folder / name)}\n".encode())
    return digest.hexdigest()


def settings_hash(path: Path) -> str:
    """Hash the values of tokenizer_config.json, but for the chat template."""
    values = read_foreign(path, {}, FOREIGN)
    values.pop("chat_template", None)
    return sha256_bytes(json.dumps(values, sort_keys=True).encode())
