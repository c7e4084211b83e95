"""The files of a tokenizer: which there are, copied without a change, and hashed."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.external.json_files import Remedy, read_foreign
from pipeline.files import sha256_bytes, sha256_file

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
MORE_TEMPLATES = "additional_chat_templates/*.jinja"
"""Chat templates by name, as transformers saves them: for tools, for documents."""
SETTINGS = "tokenizer_config.json"
FOREIGN = Remedy(ModelError, "Fetch the model again, or save it again with transformers.")


def tokenizer_names(folder: Path) -> list[str]:
    """List the names that files of a tokenizer may have in a model folder."""
    more = sorted(path.relative_to(folder).as_posix() for path in folder.glob(MORE_TEMPLATES))
    return [*TOKENIZER_FILES, *more]


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
